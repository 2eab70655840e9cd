"""The queue of one model version; a policy of `batch_policy` says when a batch is complete.

`inference` puts jobs in, the pumps of `dispatch` take batches out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import TYPE_CHECKING, get_args

from ts_frontend.core.job import Job
from ts_frontend.core.meter import Count, Departure, PlainCount, Refusal, VersionMeter
from ts_frontend.errors import ServeError

if TYPE_CHECKING:
    from ts_frontend.core.batch_policy import Policy
    from ts_frontend.core.latency_target import LatencyTarget
    from ts_frontend.core.prefetch import Prefetch


Receiver = Callable[[list[Job]], None]


class JobQueue:
    """First in, first out; one worker at a time forms a batch, as in TorchServe.

    Made inside the running loop.

    Args:
        capacity: how many jobs may wait; those in a forming batch no longer count.
        batch_size: the most jobs in a batch; only jobs that may be in one, see `Job.joins`.
        client_timeout: seconds until a job without an answer fails with ``expired(waiting)``,
            where ``waiting`` says whether it was still in the queue; 0: never.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        capacity: int,
        batch_size: int,
        client_timeout: float = 0.0,
        expired: Callable[[bool], ServeError] | None = None,
    ) -> None:
        self.capacity = capacity
        self.batch_size = batch_size
        self.consumers = 0  # workers of the version that serve, or may recover
        self.takers = 0  # idle workers, which wait for a batch
        self.prefetch: Prefetch | None = None  # told of what arrives
        self.target: LatencyTarget | None = None  # told of what workers do
        # Nobody's until `counted`.
        self.departures: Mapping[Departure, Count] = dict.fromkeys(
            get_args(Departure), PlainCount()
        )
        self.refusals: Mapping[Refusal, Count] = dict.fromkeys(get_args(Refusal), PlainCount())
        # Asked once: in Python 3.11 each get_running_loop is a system call.
        self.loop = asyncio.get_running_loop()
        self._policy = policy
        self._client_timeout = client_timeout
        self._expired = expired
        self._waiting: deque[Job] = deque()
        self._forming: list[Job] = []
        self._turn = asyncio.Lock()
        self._arrival: asyncio.Future[None] | None = None
        self._unfinished = 0
        self._joining: asyncio.Future[None] | None = None
        self._heir: JobQueue | None = None
        # Idle workers of a version that batches nothing: each gets a job in the call of `put`.
        self._hungry: deque[Receiver] = deque()
        # Of who was fed last: called at the end of a turn in which a job had to wait.
        self.follow: Callable[[], None] | None = None

    def counted(self, counts: VersionMeter) -> None:
        """Count from now on why batches leave, and what is refused."""
        self.departures, self.refusals = counts.departures, counts.refusals

    def __len__(self) -> int:
        return len(self._waiting)

    def backlog(self) -> tuple[int, float | None]:
        """How many jobs no worker has taken, those of a forming batch included, and when the
        oldest arrived (of `time.monotonic`)."""
        head = self._forming or self._waiting
        return len(self._forming) + len(self._waiting), head[0].arrived if head else None

    @property
    def head(self) -> Job | None:
        """The job that waits first, but for those in a forming batch."""
        return self._waiting[0] if self._waiting else None

    @property
    def remaining(self) -> int:
        """How many more jobs may wait."""
        return max(0, self.capacity - len(self._waiting))

    @property
    def growing(self) -> bool:
        """True while the forming batch may take another job."""
        forming = self._forming
        return len(forming) < self.batch_size and not (forming and forming[0].kind == "describe")

    def put(self, job: Job) -> bool:
        """Queue a job; False when there is no worker or no room. Pair it with `finish`."""
        if not self.consumers or len(self._waiting) >= self.capacity:
            return self._heir is not None and self._heir.put(job)
        self._waiting.append(job)
        self._unfinished += 1
        if self._client_timeout:
            self._limit(job)
        if self._hungry:
            self._feed()
            return True
        if self.follow is not None:
            self.loop.call_soon(self.follow)
            self.follow = None
        waiter = self._arrival
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
        if self.prefetch is not None:
            self.prefetch.offer()
        return True

    def remove(self, job: Job) -> bool:
        """Forget a job that waits or is in the forming batch; False when it is in neither."""
        for place in (self._waiting, self._forming):
            try:
                place.remove(job)
            except ValueError:
                continue
            return True
        return self._heir is not None and self._heir.remove(job)

    @property
    def straight(self) -> bool:
        """Whether there is nothing to decide about a batch, so that `feed` does for `take`."""
        plain = self.prefetch is None and self.target is None
        return plain and self.batch_size == 1 and self._policy.ahead

    def feed(self, idle: Receiver) -> None:
        """Give an idle worker one job, now or as soon as there is one. Without a task: waking it
        for each request costs as much as all the rest of the dispatch."""
        self._hungry.append(idle)
        self.takers += 1
        self._feed()

    def unfeed(self, idle: Receiver) -> None:
        """It takes nothing more; it may have been fed."""
        if idle in self._hungry:
            self._hungry.remove(idle)
            self.takers -= 1

    def _feed(self) -> None:
        while self._hungry and self._waiting:
            self.takers -= 1
            self.departures["full"].value += 1
            self._hungry.popleft()([self._waiting.popleft()])

    async def take(self) -> list[Job]:
        """Wait for the next batch, at least one job long. Cancelling loses no job."""
        self.takers += 1
        try:
            async with self._turn:
                return await self._fill()
        finally:
            self.takers -= 1

    async def _fill(self) -> list[Job]:
        while True:
            try:
                why = await self._policy.fill(self)
            except BaseException:
                self._waiting.extendleft(reversed(self._forming))
                self._forming = []
                raise
            batch, self._forming = self._forming, []
            if batch:
                self.departures[why].value += 1
                return batch

    def take_ahead(self, *, partial: bool = False) -> list[Job]:
        """A batch for a worker that is still busy; empty when an idle one should have it.

        Args:
            partial: it need not be full.
        """
        waiting, size = self._waiting, self.batch_size
        allowed = self._policy.ahead or self.prefetch is not None
        if self.takers or not waiting or not allowed or (len(waiting) < size and not partial):
            return []
        if size == 1:
            self.departures["full"].value += 1
            return [waiting.popleft()]
        count = len(self._alike(size))
        if not count or (count < size and not partial):
            return []
        self.departures["full" if count == size else "delay"].value += 1
        return [waiting.popleft() for _ in range(count)]

    def _alike(self, most: int) -> list[Job]:
        """Those at the head that may be in one batch; none where a description is."""
        waiting = self._waiting
        alike: list[Job] = []
        for job in islice(waiting, most):
            if not job.joins(waiting[0]):
                break
            alike.append(job)
        return alike

    def put_back(self, jobs: list[Job]) -> None:
        """Return jobs that `take_ahead` gave out and no worker began; they keep their place."""
        if self._heir is not None:
            self._heir.put_back(jobs)
            return
        self._waiting.extendleft(reversed([job for job in jobs if not job.settled]))
        self._feed()
        if self._arrival is not None:
            _wake(self._arrival)
        if self.prefetch is not None:
            self.prefetch.offer()

    async def arrival(self, until: float | None = None) -> bool:
        """Wait until a job waits, or the loop's clock reads ``until``; say whether one waits."""
        return True if self._waiting else await self.change(until)

    async def change(self, until: float | None = None) -> bool:
        """`arrival`, though jobs wait already: of one more."""
        waiter = self._arrival = self.loop.create_future()
        timer = None if until is None else self.loop.call_at(until, _wake, waiter)
        try:
            await waiter
        finally:
            self._arrival = None
            if timer is not None:
                timer.cancel()
        return bool(self._waiting)

    def move(self) -> bool:
        """Move the head into the forming batch; False when none waits or it may not join."""
        if not self._waiting or not self.growing:
            return False
        if self._forming and not self._waiting[0].joins(self._forming[0]):
            return False
        self._forming.append(self._waiting.popleft())
        return True

    def finish(self) -> None:
        """A job that `put` took has been answered, failed or cancelled."""
        if self._heir is not None:
            self._heir.finish()
            return
        self._unfinished -= 1
        if not self._unfinished and self._joining is not None and not self._joining.done():
            self._joining.set_result(None)

    def bequeath(self, heir: JobQueue) -> None:
        """Give another queue what waits, and all that will be asked of this one: workers that are
        still busy with its jobs return them there, and clients that hold on to it wait there."""
        waiting = [*self._forming, *self._waiting]
        self._forming.clear()
        self._waiting.clear()
        self.capacity = 0
        self._heir = heir
        heir._unfinished += self._unfinished
        self._unfinished = 0
        heir.put_back(waiting)
        if self._joining is not None and not self._joining.done():
            self._joining.set_result(None)

    async def join(self) -> None:
        """Wait until every job that was put in is finished."""
        while self._unfinished:
            if self._joining is None or self._joining.done():
                self._joining = self.loop.create_future()
            await asyncio.shield(self._joining)
        if self._heir is not None:
            await self._heir.join()

    def dismiss(self, error: Callable[[], ServeError]) -> None:
        """Answer what waits with ``error()`` and take no more until there are consumers again."""
        if self._heir is not None:
            return  # nothing waits here, and what workers return has somewhere to go
        self.consumers = 0
        waiting = [*self._forming, *self._waiting]
        self._forming.clear()
        self._waiting.clear()
        for job in waiting:
            job.fail(error())

    def _limit(self, job: Job) -> None:
        job.timer = self.loop.call_later(self._client_timeout, self._expire, job)

    def _expire(self, job: Job) -> None:
        # An answer that streams has begun in time.
        if job.settled or self._expired is None:
            return
        waiting = self.remove(job)
        if not waiting:
            job.cancel()
        job.fail(self._expired(waiting))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
