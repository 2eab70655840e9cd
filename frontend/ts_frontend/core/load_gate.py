"""Who may load a model at the same time: as many workers as there are cores, while memory lasts.

Each `slot` takes a turn before it starts a worker. Fifty models that load at once would take longer
than one after another, and together more memory than they need later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable

# Seconds; who takes longer keeps nobody waiting: it may wait itself, for a download, or for another
# model of this server.
PATIENCE = 30.0


class LoadGate:
    """Lets workers load in the order in which they ask.

    Args:
        most: workers that load at the same time.
        available: bytes of memory that can be had; None where nobody knows.
    """

    def __init__(self, most: int, available: Callable[[], int | None]) -> None:
        self._most = most
        self._available = available
        self._loading: dict[object, int] = {}
        self._waiting: deque[tuple[asyncio.Future[None], object, int]] = deque()

    @contextlib.asynccontextmanager
    async def turn(self, size: int) -> AsyncIterator[None]:
        """Wait until a worker may load that needs about ``size`` bytes, and have it count until
        the block ends, or `PATIENCE` does.

        With nobody loading there is always a turn, however little memory there is.
        """
        key = object()
        await self._enter(key, size)
        timer = asyncio.get_running_loop().call_later(PATIENCE, self._leave, key)
        try:
            yield
        finally:
            timer.cancel()
            self._leave(key)

    async def _enter(self, key: object, size: int) -> None:
        if not self._waiting and self._has_room(size):
            self._loading[key] = size
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((mine, key, size))
        try:
            await mine
        except asyncio.CancelledError:
            self._leave(key)
            raise

    def _leave(self, key: object) -> None:
        self._loading.pop(key, None)
        while self._waiting:
            waiter, key, size = self._waiting[0]
            if not waiter.cancelled():
                if not self._has_room(size):
                    return
                self._loading[key] = size
                waiter.set_result(None)
            self._waiting.popleft()

    def _has_room(self, size: int) -> bool:
        if not self._loading:
            return True
        if len(self._loading) >= self._most:
            return False
        available = self._available()
        # What they have taken by now counts twice: better one too few at once than one too many.
        return available is None or sum(self._loading.values()) + size <= available
