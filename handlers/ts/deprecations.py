"""Torch's deprecations that the readers of a server's log cannot act on."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from typing import Any, Iterator, List

_TORCHSCRIPT = r"`torch\.jit\.(load|freeze)` is (deprecated|not supported)"


@contextmanager
def torchscript_warning_hidden() -> Iterator[None]:
    """Hide torch's notes that TorchScript is deprecated, for as long as an archive loads.

    `warnings.catch_warnings` would also undo the filters that a handler's `initialize` sets for
    good, so exactly this one entry comes and goes.
    """
    before: List[Any] = list(warnings.filters)
    warnings.filterwarnings("ignore", _TORCHSCRIPT, FutureWarning)
    added = warnings.filters[0]
    try:
        yield
    finally:
        # An equal filter that was there before is the one that stays.
        if added not in before and added in warnings.filters:
            warnings.filters.remove(added)  # type: ignore[attr-defined]
