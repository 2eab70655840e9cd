"""What `ts.model_loader` looks at in the ``handle`` that will answer batches."""

from __future__ import annotations

import inspect
from typing import Any, Callable


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


def _is_coroutine(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
