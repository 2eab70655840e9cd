"""What the core tells whoever counts and logs; `metrics.recorder` and `logs` fit these shapes."""

from __future__ import annotations

from typing import Protocol

from ts_worker.messages import Metric


class ModelMeter(Protocol):
    """Counters of one model as clients name it."""

    def accepted(self) -> None:
        """A request found its model; TorchServe counts it even if the queue then refuses it."""

    def answered(self, total_microseconds: float, queue_microseconds: float) -> None:
        """A request was answered, so long after it came and after so long in the queue."""


class Meter(Protocol):
    """The metrics that the core records."""

    def meter(self, model: str, version: str) -> ModelMeter:
        """The counters of a model; ``version`` as requested, or "default"."""

    def queue_time(self, milliseconds: int) -> None: ...
    def worker_thread_time(self, milliseconds: int) -> None: ...
    def worker_load_time(self, worker: str, milliseconds: int) -> None: ...
    def model_metric(self, metric: Metric) -> None: ...


class ModelLog(Protocol):
    """Where the lines go that workers write."""

    def model(self, worker: str, stream: str, level: int, text: str) -> None: ...
