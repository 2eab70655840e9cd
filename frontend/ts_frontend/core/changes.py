"""The calls under way that change models: they outlive their clients, but not the server.

`management` holds them, its edges run each call here, and `server` ends them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from ts_frontend.errors import ServiceUnavailable
from ts_frontend.urls import without_secrets

logger = logging.getLogger(__name__)

T = TypeVar("T")

STOPPING = "The server is stopping: models can't be changed any more."
NOT_REGISTERED = "The server is stopping: the model is not registered."
NOT_AWAITED = "The server is stopping: it does not wait for the workers any more."


class Changes:
    """Runs each change in a task of its own."""

    def __init__(self) -> None:
        self._tasks: dict[asyncio.Task[Any], str | None] = {}
        self._stopping = False

    async def run(self, change: Coroutine[Any, Any, T], cut: str | None = None) -> T:
        """Make a change and return its outcome.

        A client that goes away ends its predictions, but not a registration half way.

        Args:
            cut: what the client is told if the server stops meanwhile, and the change ends for
                that; None for one that goes on as long as requests are answered.

        Raises:
            ServiceUnavailable: the server is stopping.
        """
        if self._stopping:
            change.close()
            raise ServiceUnavailable(STOPPING)
        task = asyncio.create_task(change)
        self._tasks[task] = cut
        task.add_done_callback(self._tasks.pop)
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise
        if task.cancelled():
            raise ServiceUnavailable(cut or STOPPING)
        return task.result()

    def stop(self) -> None:
        """Begin no more changes, and cut short those that may be: nobody is helped by a model that
        is loaded now, and its load may take longer than the server has left."""
        self._stopping = True
        for task, cut in self._tasks.items():
            if cut is not None:
                task.cancel()

    async def close(self) -> None:
        """End what is left, once requests have been answered; what it made half is cleaned up."""
        self.stop()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))


def _report(change: asyncio.Task[Any]) -> None:
    """Log how a change ended that no client waited for."""
    if change.cancelled():
        logger.warning("A change of models was cut off by the end of the server.")
    elif (error := change.exception()) is not None:
        logger.warning(
            "A change of models failed after its client had gone: %s", without_secrets(str(error))
        )
    else:
        logger.info(
            "A change of models ended after its client had gone: %s", change.result().message
        )
