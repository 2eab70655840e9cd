"""Upper seam for predictions: all that the HTTP and gRPC edges, and handlers that call another
model, may use. Its `submit` is the hot path: a job and a callback, no task, future or timer.
"""

from __future__ import annotations

import asyncio
import time
from functools import partial

from ts_frontend.core.batching import JobQueue
from ts_frontend.core.catalog import Catalog
from ts_frontend.core.job import Answer, Job, Kind, Sink
from ts_frontend.core.meter import Meter, ModelMeter
from ts_frontend.core.model import ModelVersion, no_worker
from ts_frontend.errors import ServeError, ServiceUnavailable
from ts_worker.messages import Request

__all__ = ["Answer", "Inference", "Pending", "describe_itself", "no_worker"]


class Inference:
    """Runs requests on the models of a catalog."""

    def __init__(self, catalog: Catalog, meter: Meter) -> None:
        self._catalog = catalog
        self._meter = meter

    async def predict(
        self, model: str, version: str | None, request: Request, kind: Kind = "predict"
    ) -> Answer:
        """Queue a request for a prediction or an explanation, and wait for its answer.

        Cancelling the caller's task cancels the request: it leaves the queue, or its worker is
        told.

        Raises:
            ModelNotFound, VersionNotFound: there is no such model.
            ServiceUnavailable: no worker, or the queue is full.
            RequestTimeout: it had no answer within the model's ``clientTimeoutInMills``.
            Internal: the handler's error with the worker's own status, or the worker died.
        """
        waiter: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        pending = self.submit(model, version, request, partial(_tell, waiter), kind)
        try:
            return await waiter
        except asyncio.CancelledError:
            pending.abandon()
            raise

    def submit(
        self, model: str, version: str | None, request: Request, sink: Sink, kind: Kind = "predict"
    ) -> Pending:
        """`predict` for who has a callback in place of a task.

        Args:
            sink: takes the answer or the error, unless this raises. It must not raise.

        Raises:
            ModelNotFound, VersionNotFound, ServiceUnavailable: as `predict`.
        """
        found = self._catalog.find(model, version)
        meter = self._meter.meter(model, version or "default")
        meter.accepted()
        pending = Pending(found.queue, meter, sink)
        job = pending.job = Job(request, pending.settle, kind)
        if not found.queue.put(job):
            raise ServiceUnavailable(no_worker(model, version))
        return pending

    def find(self, model: str, version: str | None) -> None:
        """Raise `ModelNotFound` or `VersionNotFound` where there is no such model."""
        self._catalog.find(model, version)

    def healthy(self) -> bool:
        """The rule of ``/ping``: the default version of every model has as many healthy workers
        as its minimum. Starting workers and those within their retry window are healthy."""
        now = asyncio.get_running_loop().time()
        return all(
            model.healthy_workers(now) >= model.min_workers for model in self._catalog.defaults()
        )

    def startup_model(self) -> str | None:
        """The model that ``/invocations`` means: the one loaded at startup, if just one was."""
        return self._catalog.startup_model()


class Pending:
    """A request that the core has taken."""

    __slots__ = ("_meter", "_queue", "_sink", "job")

    def __init__(self, queue: JobQueue, meter: ModelMeter, sink: Sink) -> None:
        self._queue = queue
        self._meter = meter
        self._sink = sink
        self.job: Job

    def settle(self, outcome: Answer | ServeError) -> None:
        """Take what the job came to, and pass it on."""
        if isinstance(outcome, ServeError):
            self._queue.finish()
        elif outcome.chunks is None:
            self._finish(True)
        else:
            outcome.chunks.when_ended(self._finish)
        self._sink(outcome)

    def abandon(self) -> None:
        """Nobody waits for the answer any more: leave the queue, or tell the worker."""
        job = self.job
        if not job.settled:
            job.forget()
            _abandon(self._queue, job)
            self._queue.finish()
        elif job.stream is not None:
            job.stream.close()

    def _finish(self, complete: bool) -> None:
        self._queue.finish()
        if not complete:
            return
        job = self.job
        arrived = job.arrived
        self._meter.answered((time.monotonic() - arrived) * 1e6, (job.taken - arrived) * 1e6)


async def describe_itself(model: ModelVersion, request: Request) -> Answer:
    """Send a describe job, which never shares a batch; `management` reads its answer.

    Raises:
        ServiceUnavailable: no worker, or the queue is full.
    """
    waiter: asyncio.Future[Answer] = model.queue.loop.create_future()
    job = Job(request, partial(_tell, waiter), "describe")
    if not model.queue.put(job):
        raise ServiceUnavailable(
            f'Model "{model.name}" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )
    try:
        return await waiter
    except asyncio.CancelledError:
        job.forget()
        _abandon(model.queue, job)
        raise
    finally:
        model.queue.finish()


def _tell(waiter: asyncio.Future[Answer], outcome: Answer | ServeError) -> None:
    if waiter.done():  # cancelled, which its task hears of later
        return
    if isinstance(outcome, ServeError):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)


def _abandon(queue: JobQueue, job: Job) -> None:
    if not queue.remove(job):
        job.cancel()
