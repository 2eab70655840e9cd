"""Upper seam for predictions: all that the HTTP and gRPC edges, and handlers that call another
model, may use. Its `predict` is the hot path: one job, one future, no task and no timer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.job import Answer, Job, Kind
from ts_frontend.core.meter import Meter, ModelMeter
from ts_frontend.core.model import ModelVersion
from ts_frontend.errors import ServeError, ServiceUnavailable
from ts_worker.messages import Request

__all__ = ["Answer", "Inference", "describe_itself", "no_worker"]


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
        found = self._catalog.find(model, version)
        meter = self._meter.meter(model, version or "default")
        meter.accepted()
        queue = found.queue
        job = Job(request, queue.loop.create_future(), kind)
        if not queue.put(job):
            raise ServiceUnavailable(no_worker(model, version))
        try:
            answer = await job.future
        except asyncio.CancelledError:
            _abandon(found, job)
            queue.finish()
            raise
        except ServeError:
            queue.finish()
            raise
        if answer.chunks is None:
            queue.finish()
            self._record(meter, job)
        else:
            answer.chunks.when_ended(self._finisher(found, meter, job))
        return answer

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

    def _record(self, meter: ModelMeter, job: Job) -> None:
        queued = job.taken - job.arrived
        meter.answered((time.monotonic() - job.arrived) * 1e6, queued * 1e6)
        self._meter.queue_time(int(queued * 1e3))

    def _finisher(self, model: ModelVersion, meter: ModelMeter, job: Job) -> Callable[[bool], None]:
        def finish(complete: bool) -> None:
            model.queue.finish()
            if complete:
                self._record(meter, job)

        return finish


async def describe_itself(model: ModelVersion, request: Request) -> Answer:
    """Send a describe job, which never shares a batch; `management` reads its answer.

    Raises:
        ServiceUnavailable: no worker, or the queue is full.
    """
    job = Job(request, model.queue.loop.create_future(), "describe")
    if not model.queue.put(job):
        raise ServiceUnavailable(
            f'Model "{model.name}" has no worker to serve describe request. '
            "Please use scale workers API to add workers."
        )
    try:
        return await job.future
    except asyncio.CancelledError:
        _abandon(model, job)
        raise
    finally:
        model.queue.finish()


def no_worker(model: str, version: str | None) -> str:
    """TorchServe's one text for no worker and full queue, unbalanced quotes included."""
    subject = f'Model "{model}"' if version is None else f'Model "{model}" Version {version}"'
    return (
        f"{subject} has no worker to serve inference request. Please use scale workers API to "
        "add workers. If this is a sequence inference, please check if it is closed, or expired; "
        "or exceeds maxSequenceJobQueueSize"
    )


def _abandon(model: ModelVersion, job: Job) -> None:
    if not model.queue.remove(job):
        job.cancel()
