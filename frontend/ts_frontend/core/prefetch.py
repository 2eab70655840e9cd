"""Sends busy workers their next batches, for a model whose yaml has ``prefetch``.

`model` makes one beside the queue; `batching` tells it what arrives, `dispatch` which workers there
are and when they have room.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from ts_frontend.core.batching import JobQueue
    from ts_frontend.core.job import Job


class Prefetcher(Protocol):
    """A worker's pump. It knows up to how many batches the worker may hold."""

    @property
    def batches(self) -> int:
        """Those that the worker has and has not answered."""

    @property
    def room(self) -> int:
        """How many more it may be sent."""

    def receive(self, jobs: list[Job]) -> None: ...


class Prefetch:
    """Keeps ``count`` batches ahead in each busy worker.

    An idle worker comes first, and takes whatever waits. Only when there is none, a busy one gets
    a batch: a full one at once, a smaller one when its oldest request has waited for ``patience``.
    Sooner would cost more than it gains: requests that could run together would be spread over
    many small batches.

    Args:
        patience: seconds; the model's ``maxBatchDelay``.
    """

    def __init__(self, queue: JobQueue, count: int, patience: float) -> None:
        self.count = count
        self._queue = queue
        self._patience = patience
        self._pumps: list[Prefetcher] = []
        self._head: Job | None = None  # that waited first when we looked last
        self._timer: asyncio.TimerHandle | None = None

    def join(self, pump: Prefetcher) -> None:
        """Its worker takes batches from now on."""
        self._pumps.append(pump)

    def leave(self, pump: Prefetcher) -> None:
        """It takes no more; may be repeated."""
        if pump in self._pumps:
            self._pumps.remove(pump)

    def offer(self) -> None:
        """Hand out what may leave the queue now: jobs or room have come."""
        queue = self._queue
        while queue.head is not None and not queue.takers:
            able = [pump for pump in self._pumps if pump.room > 0]
            jobs = queue.take_ahead(partial=self._overdue) if able else []
            if not jobs:
                break
            min(able, key=_batches).receive(jobs)
        self._watch()

    @property
    def _overdue(self) -> bool:
        return self._head is not None and self._head is self._queue.head and self._timer is None

    def _watch(self) -> None:
        """Look again when the job that waits first has waited long enough."""
        head = self._queue.head
        if head is self._head:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._head = head
        if head is not None:
            left = self._patience - (time.monotonic() - head.arrived)
            self._timer = self._queue.loop.call_later(max(0.0, left), self._due)

    def _due(self) -> None:
        self._timer = None
        self.offer()


def _batches(pump: Prefetcher) -> int:
    return pump.batches
