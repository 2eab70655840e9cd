"""The pump: one task per worker that takes batches from the queue and sees them answered.

`slot` runs one for as long as its worker lives.
"""

from __future__ import annotations

import asyncio
import logging
import time

from ts_frontend.core.batching import JobQueue
from ts_frontend.core.job import Job
from ts_frontend.core.meter import Meter
from ts_frontend.errors import Internal
from ts_worker.backend.base import ExitReason, Worker
from ts_worker.messages import Predict, Reply, ReplyChunk

logger = logging.getLogger(__name__)

WORKER_DIED = "Worker died."
DESCRIBE_FAILED = "Failed to get customized model matadata."  # TorchServe's spelling
_SIGKILL = 9


def death_status(reason: ExitReason) -> int:
    """507 for a worker that was killed, as the kernel does when memory runs out; else 500."""
    return 507 if reason.signal == _SIGKILL or reason.code == 128 + _SIGKILL else 500


class Pump:
    """Takes a batch, sends it, waits until each of its requests is answered; and again.

    Args:
        response_timeout: seconds a worker may take for each message of its answer.
    """

    def __init__(
        self, worker: Worker, queue: JobQueue, meter: Meter, response_timeout: float
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._loop = queue.loop
        self._meter = meter
        self._timeout = response_timeout
        self._in_flight: dict[bytes, Job] = {}
        self._batch_id = 0
        self._done: asyncio.Future[None] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._replied = 0.0
        self._closing = False
        self._task: asyncio.Task[None] | None = None
        self.timed_out = False
        self.served = 0  # batches that the worker answered

    async def run(self) -> None:
        """Serve until `drain`, a response timeout or cancellation. Cancelling loses no job:
        what is in flight stays known until `fail`."""
        self._task = asyncio.current_task()
        try:
            while not self._closing and not self.timed_out:
                await self._serve(await self._queue.take())
        except Exception:
            logger.exception("Worker %s: dispatch failed, the worker is replaced", self._worker.id)
            self.timed_out = True
            self.fail(500)
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
        if self.timed_out:
            await self._worker.stop(0)

    async def drain(self, limit: float) -> None:
        """Take no further batch and wait at most ``limit`` seconds for the current one."""
        self._closing = True
        if self._in_flight and self._done is not None:
            await asyncio.wait([self._done], timeout=limit)
        elif self._task is not None:
            self._task.cancel()  # it waits for a batch: nothing is lost

    def fail(self, status: int) -> None:
        """Answer what is in flight: the worker is gone. Never retried on another worker."""
        failed, self._in_flight = self._in_flight, {}
        for job in failed.values():
            message = DESCRIBE_FAILED if job.describe else WORKER_DIED
            job.fail(Internal(message, status=status))
        self._finish()

    def cancel(self, job: Job) -> None:
        """Nobody waits for this job any more. Its batch goes on until the worker answers it."""
        if job.request.id in self._in_flight:
            self._worker.cancel(job.request.id)

    async def _serve(self, jobs: list[Job]) -> None:
        taken = time.monotonic()
        in_flight = self._in_flight
        for job in jobs:
            job.taken = taken
            job.holder = self
            in_flight[job.request.id] = job
        self._batch_id += 1
        done = self._done = self._loop.create_future()
        self._deadline = self._loop.time() + self._timeout
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._check)
        batch = Predict(self._batch_id, tuple([job.request for job in jobs]))
        self._worker.predict(batch, self._reply)
        sent = time.monotonic()
        await done
        # TorchServe's WorkerThreadTime: what the round trip took beside waiting for the worker.
        spent = (time.monotonic() - taken) - (self._replied - sent)
        self._meter.worker_thread_time(max(0, int(spent * 1000)))

    def _reply(self, reply: Reply | ReplyChunk) -> None:
        in_flight = self._in_flight
        if isinstance(reply, ReplyChunk):
            job = in_flight.get(reply.request_id)
            if job is not None:
                self._postpone()
                job.chunk(reply)
            return
        if reply.batch_id != self._batch_id:
            return
        self._replied = time.monotonic()
        if reply.code != 200:
            self._fail_batch(reply)
        else:
            for response in reply.responses:
                job = in_flight.pop(response.request_id, None)
                if job is not None:
                    job.answer(response)
        if in_flight:
            self._postpone()
        else:
            self.served += 1
            self._finish()

    def _fail_batch(self, reply: Reply) -> None:
        # TorchServe turns 413 into 507: "too large" must not blame the client's body.
        status = 507 if reply.code == 413 else reply.code
        for job in self._in_flight.values():
            job.fail(Internal(reply.message, status=status))
        self._in_flight.clear()

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _postpone(self) -> None:
        self._deadline = self._loop.time() + self._timeout

    def _check(self) -> None:
        # One timer runs on across batches and looks at the deadline of the current one: arming
        # and cancelling a timer for each batch would cost more than the rest of the dispatch.
        self._timer = None
        if not self._in_flight:
            return
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
