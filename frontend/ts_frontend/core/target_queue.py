"""The queue of a model version with a latency target, and how its batches form.

`latency_target` decides; this carries it out: who is refused, who leaves with whom, and when.
`model` makes one where `maxLatencyMs` is set.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ts_frontend.core.batching import JobQueue
from ts_frontend.core.job import Job
from ts_frontend.core.latency_target import LatencyTarget
from ts_frontend.core.meter import Departure
from ts_frontend.errors import ServeError

# A busy worker is sent ahead what it answers in two milliseconds: little beside such a target.
_AHEAD_FROM = 0.02
_LOOK_AT_LEAST = 0.001  # seconds between two looks for who has waited too long
_DEPTH = 4  # batches that are looked into for one that can still be answered in time


class TargetQueue(JobQueue):
    """Refuses what can't be answered in time, and batches by what batches cost."""

    target: LatencyTarget

    def __init__(
        self,
        policy: OnTime,
        *,
        capacity: int,
        batch_size: int,
        client_timeout: float = 0.0,
        expired: Callable[[bool], ServeError] | None = None,
    ) -> None:
        super().__init__(
            policy,
            capacity=capacity,
            batch_size=batch_size,
            client_timeout=client_timeout,
            expired=expired,
        )
        self.target = policy.target
        self._refusal = policy.refusal
        self._look: asyncio.TimerHandle | None = None

    def put(self, job: Job) -> bool:
        """Queue a job.

        Raises:
            ServeError: it can't be answered in time.
        """
        if self._heir is not None or not self.consumers or job.kind == "describe":
            return super().put(job)
        waiting = len(self._waiting)
        if not self.target.admits(job.arrived, waiting, self.takers) and waiting < self.capacity:
            self.refusals["arrival"].value += 1
            raise self._refusal()
        if not super().put(job):
            return False
        if self._look is None:
            self._watch()
        return True

    def put_back(self, jobs: list[Job]) -> None:
        super().put_back(jobs)
        if self._look is None:
            self._watch()

    def take_ahead(self, *, partial: bool = False) -> list[Job]:
        target, count = self.target, len(self._waiting)
        wanted = target.seconds >= _AHEAD_FROM or self.prefetch is not None
        if self.takers or not count or not wanted or (count < target.size and not partial):
            return []
        jobs = self.front()
        if not jobs or (len(jobs) < target.size and not partial):
            return []
        now = time.monotonic()
        start = target.next_free(now)
        choice = target.choose(now, [job.arrived for job in jobs], start=start)
        dropped, batch = self.pop(choice.drop), []
        if partial or choice.take == target.size:
            batch = self.pop(choice.take)
        if batch:
            self.departures["full" if len(batch) == target.size else "delay"].value += 1
        self.refuse(dropped)
        return batch

    def front(self) -> list[Job]:
        """The oldest, as far as they may be in one batch."""
        return self._alike(_DEPTH * self.batch_size)

    def pop(self, count: int) -> list[Job]:
        """Take so many of the oldest out."""
        return [self._waiting.popleft() for _ in range(count)]

    def refuse(self, jobs: list[Job]) -> None:
        """Answer that they can't be answered in time. Nothing may be half done then: who is told
        may ask again at once."""
        self.refusals["waiting"].value += len(jobs)
        for job in jobs:
            job.fail(self._refusal())

    def _watch(self) -> None:
        """Look again when the oldest can no longer be answered in time: a worker may be stuck, or
        not there yet."""
        head = self.head
        if head is not None:
            left = self.target.expires(head.arrived) - time.monotonic()
            self._look = self.loop.call_later(max(_LOOK_AT_LEAST, left), self._looked)

    def _looked(self) -> None:
        self._look = None
        expired: list[Job] = []
        # An idle worker is about to take them, late or not.
        if not self.takers:
            expired = self.pop(self._overdue(time.monotonic()))
        self._watch()
        self.refuse(expired)

    def _overdue(self, now: float) -> int:
        count = 0
        for job in self._waiting:
            if job.kind == "describe" or self.target.expires(job.arrived) > now:
                break
            count += 1
        return count


class OnTime:
    """Asks a `LatencyTarget` what a worker that is free is to take.

    Args:
        refusal: makes the error of a request that can't be answered in time.
    """

    ahead = True

    def __init__(self, target: LatencyTarget, refusal: Callable[[], ServeError]) -> None:
        self.target = target
        self.refusal = refusal

    async def fill(self, queue: JobQueue) -> Departure:
        assert isinstance(queue, TargetQueue)
        idle = False
        while True:
            if queue.head is None:
                idle = True
                while not await queue.arrival():
                    pass
            if len(queue) < self.target.size:
                await asyncio.sleep(0)  # what arrived together travels together
            if queue.head is not None and (why := await self._decide(queue, idle)) is not None:
                return why

    async def _decide(self, queue: TargetQueue, idle: bool) -> Departure | None:
        jobs = queue.front()
        if not jobs:  # a description
            queue.move()
            return "full"
        now = time.monotonic()
        choice = self.target.choose(now, [job.arrived for job in jobs], idle=idle)
        dropped, take = queue.pop(choice.drop), choice.take
        if choice.until is not None:
            if len(jobs) == len(queue):
                await queue.change(queue.loop.time() + choice.until - now)
                return None
            take = len(jobs)  # the next one may not join: nothing is left to wait for
        for _ in range(take):
            queue.move()
        queue.refuse(dropped)
        return choice.why if take else None
