"""What the core tells whoever counts and logs; `metrics.recorder` and `logs` fit these shapes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ts_worker.messages import Metric

if TYPE_CHECKING:
    from ts_frontend.core.slot import Slot

# Why a worker was started again: it exited, a signal killed it, it did not answer in time, or it
# never loaded its model.
RestartReason = Literal["exit", "signal", "timeout", "load_failed"]
# Why a batch left: nothing more could join it, a worker had nothing else to do, its oldest request
# could wait no longer under the latency target, `maxBatchDelay` had passed.
Departure = Literal["full", "idle_worker", "deadline", "delay"]
# When a request was refused because of the latency target: as it came, or after it had waited.
Refusal = Literal["arrival", "waiting"]


class Count(Protocol):
    """A number that only grows; who holds one adds to it in place."""

    value: float


@dataclass(slots=True)
class PlainCount:
    """A `Count` that nobody reads."""

    value: float = 0.0


class ModelMeter(Protocol):
    """Counters of one model as clients name it."""

    def accepted(self) -> None:
        """A request found its model; TorchServe counts it even if the queue then refuses it."""

    def answered(self, total_microseconds: float, queue_microseconds: float) -> None:
        """A request was answered, so long after it came and after so long in the queue."""


class VersionMeter(Protocol):
    """What happens to the workers of a registered version.

    ``departures`` and ``refusals`` are for its queue, which adds to them without a call.
    """

    @property
    def departures(self) -> Mapping[Departure, Count]: ...
    @property
    def refusals(self) -> Mapping[Refusal, Count]: ...

    def batch(self, size: int, seconds: float) -> None:
        """A worker answered a batch, so long after it became the worker's oldest."""

    def restarted(self, reason: RestartReason) -> None:
        """A worker is started again because the last one ended."""

    def joined(self, slot: Slot) -> None:
        """A slot has begun to keep a worker alive."""

    def left(self, slot: Slot) -> None:
        """A slot has ended, and its process with it."""


class Meter(Protocol):
    """The metrics that the core records."""

    def meter(self, model: str, version: str) -> ModelMeter:
        """The counters of a model; ``version`` as requested, or "default"."""

    def version(self, model: str, version: str) -> VersionMeter:
        """The meter of a registered version, the same one for all of its workers."""

    def worker_thread_time(self, milliseconds: int) -> None: ...
    def worker_load_time(self, worker: str, milliseconds: int) -> None: ...
    def model_metric(self, metric: Metric, model: str, version: str) -> None:
        """A handler of this version reported something."""


class ModelLog(Protocol):
    """Where the lines go that workers write."""

    def model(
        self,
        worker: str,
        stream: str,
        level: int,
        text: str,
        *,
        model: str,
        version: str,
        request_ids: str = "",
    ) -> None: ...
