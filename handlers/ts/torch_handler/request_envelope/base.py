"""What a request envelope is: a translator between a wire format's batches and plain rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Callable, List, Sequence

from ts.blame import renumber


class BaseEnvelope(ABC):
    """Wraps a handler's ``handle``; chosen for all models by the server's `service_envelope`."""

    # How many rows `parse_input` has made of each request, where that is not one.
    _lengths: Sequence[int] = ()

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Any) -> Any:
        """Unwrap the rows, call the handler, wrap its results."""
        self.context = context
        if data:
            data = self.parse_input(data)
        try:
            results = self._handle_fn(data, context)
        except Exception as error:
            if self._lengths:
                owners = [[request] * length for request, length in enumerate(self._lengths)]
                renumber(error, [request for rows in owners for request in rows])
            raise
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: List[Any]) -> List[Any]:
        """Rows as they came to what the handler gets."""

    @abstractmethod
    def format_output(self, data: List[Any]) -> List[Any]:
        """The handler's results to one answer per request."""


def regroup(results: Any, counts: Sequence[int]) -> List[Any]:
    """Split the results of a batch by the number of instances each request brought.

    Raises:
        ValueError: the handler did not return one result per instance.
    """
    if len(results) != sum(counts):
        raise ValueError(f"{len(results)} results for {sum(counts)} instances")
    return cut(results, counts)


def cut(results: Any, counts: Sequence[int]) -> List[Any]:
    """`regroup` as TorchServe's envelope `json` does: too few results leave the last ones short,
    and nobody gets those that are too many."""
    groups, start = [], 0
    for count in counts:
        groups.append(list(results[start : start + count]))
        start += count
    return groups
