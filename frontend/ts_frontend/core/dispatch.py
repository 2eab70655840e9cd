"""The pump: one task per worker that takes batches from the queue and sees them answered.

`slot` runs one for as long as its worker lives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

from ts_frontend.core.batching import JobQueue
from ts_frontend.core.flight import Flight
from ts_frontend.core.job import Job
from ts_frontend.core.latency_target import LatencyTarget
from ts_frontend.core.meter import Meter, VersionMeter
from ts_frontend.errors import Internal
from ts_worker.backend.base import ExitReason, Worker, WorkerGone
from ts_worker.messages import Predict, Reply, ReplyChunk

logger = logging.getLogger(__name__)

WORKER_DIED = "Worker died."
DESCRIBE_FAILED = "Failed to get customized model matadata."  # TorchServe's spelling
_SIGKILL = 9
# A worker is sent ahead at most what it answers in this time: so long may a request wait behind
# others although another worker becomes idle.
AHEAD_SECONDS = 0.002
MAX_AHEAD = 32


def death_status(reason: ExitReason) -> int:
    """507 for a worker that was killed, as the kernel does when memory runs out; else 500."""
    return 507 if reason.signal == _SIGKILL or reason.code == 128 + _SIGKILL else 500


class Pump:
    """Takes a batch, sends it, waits until each of its requests is answered; and again.

    A quick worker is sent its next full batches ahead, while it still computes: waking a process
    that fell asleep costs more than a short handler. Any worker is, where its model asks for
    `prefetch`. A worker answers in order, so of what was sent it can only have begun the oldest;
    the rest goes back to the queue if it dies.

    Args:
        counts: told of each batch that is answered.
        response_timeout: seconds a worker may take for each message of its answer.
        max_response_size: bytes of an answer, or of a part of a streamed one; None for any number.
    """

    def __init__(
        self,
        worker: Worker,
        queue: JobQueue,
        meter: Meter,
        counts: VersionMeter,
        response_timeout: float,
        max_response_size: int | None = None,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._prefetch = queue.prefetch
        self._target = queue.target
        self._loop = queue.loop
        self._meter = meter
        self._counts = counts
        self._timeout = response_timeout
        # Chosen once: without a limit nothing is measured.
        self._sink: Callable[[Reply | ReplyChunk], None] = self._reply
        if max_response_size is not None:
            self._sink = partial(self._measured_reply, max_response_size)
        self._flights: dict[int, Flight] = {}  # oldest first
        self._batch_id = 0
        self._landed: asyncio.Future[None] | None = None
        self._parked: asyncio.Future[None] | None = None  # while the queue feeds it
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._begun = 0.0  # when the oldest flight became the oldest
        self._pace = AHEAD_SECONDS  # of a batch, a moving average
        self._closing = False
        self._holding = 0  # streams that nobody reads fast enough
        self._straight = queue.straight
        self._task: asyncio.Task[None] | None = None
        self.timed_out = False
        self.served = 0  # batches that the worker answered

    @property
    def in_flight(self) -> int:
        """Requests that the worker was sent and has not answered."""
        return sum(len(flight.jobs) for flight in self._flights.values())

    @property
    def batches(self) -> int:
        """Those that the worker was sent and has not answered."""
        return len(self._flights)

    @property
    def room(self) -> int:
        """How many more batches it may be sent."""
        count = max(1, min(MAX_AHEAD, int(AHEAD_SECONDS / self._pace)))
        if self._prefetch is not None:
            count = max(count, 1 + self._prefetch.count)
        return 0 if self._closing or self.timed_out else count - len(self._flights)

    async def run(self) -> None:
        """Serve until `drain`, a response timeout or cancellation. Cancelling loses no job:
        what is in flight stays known until `fail`."""
        self._task = asyncio.current_task()
        if self._prefetch is not None:
            self._prefetch.join(self)
        if self._target is not None:
            self._target.join(self)
        try:
            if self._straight:
                await self._be_fed()
            while not self._closing and not self.timed_out:
                if not self._flights:
                    self._send(await self._queue.take())
                self._send_ahead()
                while self._flights:
                    await self._landing()
        except Exception:
            self._break_off()
        finally:
            self._queue.unfeed(self._fed)
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._prefetch is not None:
                self._prefetch.leave(self)
            if self._target is not None:
                self._target.leave(self)
        if self.timed_out:
            await self._worker.stop(0)

    async def _be_fed(self) -> None:
        """Let the queue give what comes to `_fed`, and `_complete` ask for more."""
        self._queue.feed(self._fed)
        while not self._closing and not self.timed_out:
            self._parked = self._loop.create_future()
            await self._parked

    def _fed(self, jobs: list[Job]) -> None:
        self.receive(jobs)
        self._queue.follow = self._follow

    def _follow(self) -> None:
        """Send ahead what came since the worker was fed."""
        try:
            self._send_ahead()
        except Exception:
            self._break_off()

    async def drain(self, limit: float) -> None:
        """Take no further batch and wait at most ``limit`` seconds for those under way."""
        self._closing = True
        if not self._flights:
            if self._task is not None:
                self._task.cancel()  # it waits for a batch: nothing is lost
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit):
                while self._flights:
                    await self._landing()

    def fail(self, status: int) -> None:
        """The worker is gone: answer the batch it was at, which is never retried on another
        worker, and return to the queue what it had not begun."""
        flights, self._flights = list(self._flights.values()), {}
        self._closing = True
        begun = 1 if self._worker.begun else 0
        lost = [job for flight in flights[:begun] for job in flight.jobs.values()]
        ahead = [job for flight in flights[begun:] for job in flight.jobs.values()]
        if not self._queue.consumers:
            lost += ahead
        elif ahead:
            self._queue.put_back(ahead)
        for job in lost:
            message = DESCRIBE_FAILED if job.kind == "describe" else WORKER_DIED
            job.fail(Internal(message, status=status))
        self._land()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more. Its batch goes on until the worker answers it."""
        if any(job.request.id in flight.jobs for flight in self._flights.values()):
            self._worker.cancel(job.request.id)

    def hold(self, on: bool) -> None:
        """Take nothing from the worker while the client of one of its streams does not read."""
        before, self._holding = self._holding, self._holding + (1 if on else -1)
        if bool(before) != bool(self._holding):
            self._worker.hold(on)
            self._postpone()

    def receive(self, jobs: list[Job]) -> None:
        """Send the worker a batch."""
        try:
            self._send(jobs)
        except Exception:
            self._break_off()

    def _break_off(self) -> None:
        logger.exception("Worker %s: dispatch failed, the worker is replaced", self._worker.id)
        self.timed_out = True
        self.fail(500)

    def _send(self, jobs: list[Job]) -> None:
        taken = time.monotonic()
        by_id: dict[bytes, Job] = {}
        for job in jobs:
            job.taken = taken
            job.holder = self
            by_id[job.request.id] = job
        flight = Flight(by_id, taken)
        self._batch_id += 1
        oldest = not self._flights
        # Before anything that may fail: `fail` answers only what is in here.
        self._flights[self._batch_id] = flight
        if oldest:
            self._begun = taken
            self._postpone()
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check)
        if self._target is not None:
            self._target.sent(self, [job.arrived for job in jobs], taken)
        batch = Predict(self._batch_id, tuple([job.request for job in jobs]))
        try:
            self._worker.predict(batch, self._sink)
        except WorkerGone:
            # It answered its last batch and ended: these jobs are for another worker, or the next.
            del self._flights[self._batch_id]
            self._closing = True
            self._queue.put_back(jobs)
            self._land()
        flight.sent = time.monotonic()

    def _send_ahead(self) -> None:
        if self._prefetch is not None:
            self._prefetch.offer()
            return
        for _ in range(self.room):
            jobs = self._queue.take_ahead()
            if not jobs:
                return
            self._send(jobs)

    async def _landing(self) -> None:
        """Wait until the worker has nothing left to do, or is given up."""
        if self._landed is None or self._landed.done():
            self._landed = self._loop.create_future()
        await asyncio.shield(self._landed)

    def _land(self) -> None:
        if self._landed is not None and not self._landed.done():
            self._landed.set_result(None)
        if self._parked is not None and not self._parked.done() and self._closing:
            self._parked.set_result(None)

    def _reply(self, reply: Reply | ReplyChunk) -> None:
        if isinstance(reply, ReplyChunk):
            for flight in self._flights.values():
                if (job := flight.jobs.get(reply.request_id)) is not None:
                    self._postpone()
                    job.chunk(reply)
            return
        answered = self._flights.get(reply.batch_id)
        if answered is None:
            return
        if reply.code != 200:
            answered.fail(reply)
        else:
            for response in reply.responses:
                job = answered.jobs.pop(response.request_id, None)
                if job is not None:
                    job.answer(response)
        self._postpone()
        if not answered.jobs:
            self._complete(reply.batch_id, answered)

    def _measured_reply(self, limit: int, reply: Reply | ReplyChunk) -> None:
        """`_reply`, but an answer that is too long becomes an error. TorchServe closed the
        connection to its worker and failed the whole batch."""
        streamed = isinstance(reply, ReplyChunk)
        for part in (reply,) if isinstance(reply, ReplyChunk) else reply.responses:
            if len(part.body) > limit:
                self._refuse(part.request_id, len(part.body), limit)
                if streamed:
                    self._worker.cancel(part.request_id)
        self._reply(reply)

    def _refuse(self, request_id: bytes, size: int, limit: int) -> None:
        for flight in self._flights.values():
            if (job := flight.jobs.get(request_id)) is not None:
                cause = f"The answer of {size} bytes is longer than max_response_size={limit}"
                job.fail(Internal(f"{cause}; raise that key, or leave it out for no limit."))

    def _complete(self, batch_id: int, flight: Flight) -> None:
        del self._flights[batch_id]
        self.served += 1
        now = time.monotonic()
        seconds = now - self._begun
        self._pace += (seconds - self._pace) / 8
        self._begun = now
        self._counts.batch(flight.size, seconds)
        if self._target is not None:
            arrived = self._target.done(self, flight.size, seconds, now)
            # Behind the tasks that these answers wake: the writing of them all counts, too.
            self._loop.call_soon(self._settle, self._target, arrived or ())
        # TorchServe's WorkerThreadTime: what a round trip took beside waiting for the worker.
        self._meter.worker_thread_time(int((flight.sent - flight.taken) * 1000))
        # Here and not in `run`: waking a task for each batch costs as much as sending it.
        if not self.timed_out:
            self._send_ahead()
        if not self._flights:
            self._land()
            if self._straight and not self._closing and not self.timed_out:
                self._queue.feed(self._fed)

    def _settle(self, target: LatencyTarget, arrived: Sequence[float]) -> None:
        target.settle(arrived, time.monotonic())

    def _postpone(self) -> None:
        self._deadline = self._loop.time() + self._timeout

    def _check(self) -> None:
        # One timer runs on across batches and looks at the deadline of the current one: arming
        # and cancelling a timer for each batch would cost more than the rest of the dispatch.
        self._timer = None
        if not self._flights:
            return
        if self._holding:
            self._postpone()  # it is us whom the worker waits for
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check)
            return
        logger.error(
            "Backend worker did not respond in given time: worker %s, responseTimeout %s s",
            self._worker.id,
            self._timeout,
        )
        self.timed_out = True
        self.fail(500)
