"""What `ts.model_loader` looks at in the ``handle`` that will answer batches."""

from __future__ import annotations

import inspect
import logging
from typing import Any, Callable

from ts.preparation import handler_of

# The loader's, which users know.
logger = logging.getLogger("ts.model_loader")


def refuse_coroutine(handle: Callable[..., Any]) -> None:
    """A coroutine can't be called as a function: it would load, and then answer nobody.

    Raises:
        ValueError: ``handle`` is ``async def``.
    """
    if _is_coroutine(handle) or _is_coroutine(type(handle).__call__):
        name = getattr(handle, "__qualname__", type(handle).__qualname__)
        raise ValueError(
            f"{name} is async def: asynchronous handlers (asyncCommunication) are not supported "
            "yet. Make it a plain def; asyncio.run, or an event loop of the handler's own, runs "
            "coroutines in there."
        )


def warn_of_late_handle(handle: Callable[..., Any]) -> None:
    """After `initialize`: what it has put in the place of ``handle`` came too late."""
    handler = handler_of(handle)
    if handler is not None and getattr(handler, "handle", handle) != handle:
        logger.warning(
            "initialize of %s has set self.handle, to no effect: as in TorchServe, handle is taken "
            "before. Set it in __init__; that goes for MicroBatching, too.",
            type(handler).__name__,
        )


def _is_coroutine(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
