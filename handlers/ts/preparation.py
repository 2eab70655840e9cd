"""`preprocess` ahead of its turn: while the handler computes a batch, a thread prepares the next.

A handler opts in with the attribute ``preprocess_ahead = True``, or its model's yaml does with
``handler: {preprocess_ahead: true}``. The next batch has to be there: that is ``prefetch`` in the
yaml. `ts.service` makes a `Preparation` for such a handler.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, List, Optional

from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.request_envelope.base import BaseEnvelope

logger = logging.getLogger(__name__)


class PreparedRows(List[Any]):
    """Rows as the handler gets them, which `preprocess` has been called with."""

    prepare: Optional[Callable[[], Any]] = None  # returns or raises what it came to


class Preparation:
    """Stands in for a handler's `preprocess`.

    Whatever `handle` a handler has, its call of ``self.preprocess(data)`` gets what a thread has
    made of these rows, or the error that they raised there. Other rows, and a second call with the
    same ones, are preprocessed as ever.
    """

    def __init__(self, handler: Any) -> None:
        self._name = type(handler).__name__
        self._preprocess = handler.preprocess
        self._warned = False
        handler.preprocess = self.take

    def run(self, rows: List[Any]) -> PreparedRows:
        """Preprocess rows that wait. Called in a thread beside the handler's."""
        prepared = PreparedRows(rows)
        try:
            result = self._preprocess(prepared)
        except BaseException as error:  # SystemExit too: it is the worker's to obey
            prepared.prepare = _raiser(error)
        else:
            prepared.prepare = lambda: result
        return prepared

    def take(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """The handler's `preprocess`."""
        prepare = data.prepare if isinstance(data, PreparedRows) else None
        if prepare is None or args or kwargs:
            return self._preprocess(data, *args, **kwargs)
        data.prepare = None  # the handler's alone from now on: it may well change it
        return prepare()

    def check(self, rows: List[Any]) -> None:
        """Warn, once, where a batch was answered without what had been prepared for it."""
        if isinstance(rows, PreparedRows) and rows.prepare is not None and not self._warned:
            self._warned = True
            logger.warning(
                "preprocess_ahead gains nothing: handle() of %s did not call "
                "self.preprocess(data) with the rows that it got",
                self._name,
            )


def _raiser(error: BaseException) -> Callable[[], Any]:
    def again() -> Any:
        raise error

    return again


def preparation(entry_point: Any, config: Dict[str, Any], prefetch: bool) -> Optional[Preparation]:
    """The `Preparation` of the handler whose ``handle`` this is, where it has asked for one.

    Args:
        entry_point: what `Service` calls with each batch.
        config: the model's yaml.
        prefetch: batches come while the handler is at an earlier one.
    """
    owner, handler = getattr(entry_point, "__self__", None), handler_of(entry_point)
    if not _wanted(handler, config):
        return None
    if handler is not owner or not callable(getattr(handler, "preprocess", None)):
        logger.warning(
            "preprocess_ahead is off: it takes a handler class with a method preprocess, "
            "and neither service_envelope nor MicroBatching"
        )
    elif not prefetch:
        logger.warning("preprocess_ahead is off: it takes prefetch: 1 or more in the model's yaml")
    else:
        return Preparation(handler)
    return None


def handler_of(entry_point: Any) -> Any:
    """The handler's object, behind an envelope or `MicroBatching`; None where it is a function."""
    owner = getattr(entry_point, "__self__", None)
    if isinstance(owner, BaseEnvelope):
        return handler_of(owner._handle_fn)
    return entry_point.handler if isinstance(entry_point, MicroBatching) else owner


def _wanted(handler: Any, config: Dict[str, Any]) -> bool:
    section = config.get("handler")
    value = section.get("preprocess_ahead") if isinstance(section, dict) else None
    if value is None:
        return getattr(handler, "preprocess_ahead", False) is True
    if not isinstance(value, bool):
        logger.warning("handler.preprocess_ahead must be true or false, not %r: it is off", value)
    return value is True
