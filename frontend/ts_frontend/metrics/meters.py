"""The meters that `core` keeps: series looked up once, so that the hot path only updates them.

`recorder` makes one `ModelMeter` for each model as clients name it, and one `VersionMeter` for
each registered version. What they feed beyond TorchServe's metrics is declared here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING, get_args

from ts_frontend.core.meter import RestartReason
from ts_frontend.metrics.family import Counter, Family, Histogram
from ts_frontend.metrics.series import Bundle, Series
from ts_frontend.metrics.spec import MetricSpec

if TYPE_CHECKING:
    from ts_frontend.core.slot import Slot

VERSION = ("model_name", "model_version", "hostname")
# Beyond TorchServe: its two latency counters only give averages.
DURATIONS = (
    MetricSpec("ts_inference_request_duration_seconds", "Seconds", "histogram", VERSION),
    MetricSpec("ts_inference_queue_duration_seconds", "Seconds", "histogram", VERSION),
)
REQUEST_SERIES = (
    "ts_inference_requests_total",
    "ts_inference_latency_microseconds",
    "ts_queue_latency_microseconds",
    *(spec.name for spec in DURATIONS),
)
BATCH_SIZE = MetricSpec("ts_batch_size", "Requests", "histogram", VERSION)
HANDLER_DURATION = MetricSpec("ts_handler_duration_seconds", "Seconds", "histogram", VERSION)
RESTARTS = MetricSpec(
    "ts_worker_restarts_total",
    "Count",
    "counter",
    ("model_name", "model_version", "reason", "hostname"),
)
# From a small model on a fast device to a long generation.
DURATION_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
REASONS: tuple[RestartReason, ...] = get_args(RestartReason)


class ModelMeter:
    """The counters of one model version, resolved once and kept by `core`.

    Args:
        find: gives a series by the name of its metric; None where metrics.yaml lacks it.
        queue_time: the series of all models together.
    """

    __slots__ = ("_durations", "_requests", "_times")

    def __init__(
        self,
        find: Callable[[str], Series | None],
        queue_time: Series | None,
    ) -> None:
        self._requests, latency, queue_latency, *durations = map(find, REQUEST_SERIES)
        self._times = Bundle((latency, queue_latency, queue_time))
        self._durations = Bundle(durations)

    def accepted(self) -> None:
        """Count a request that found its model; called before the queue is checked."""
        if self._requests is not None:
            self._requests.update(1.0)

    def answered(self, total_microseconds: float, queue_microseconds: float) -> None:
        """Record a successful prediction: time since it arrived, and its part in the queue."""
        milliseconds = float(int(queue_microseconds / 1e3))
        self._times.update(total_microseconds, queue_microseconds, milliseconds)
        self._durations.update(total_microseconds / 1e6, queue_microseconds / 1e6)


class VersionMeter:
    """What the workers of one registered version did; ``slots`` are those that have not ended."""

    __slots__ = ("_durations", "_restarts", "_sizes", "slots")

    def __init__(
        self, sizes: Histogram, durations: Histogram, restarts: dict[RestartReason, Counter]
    ) -> None:
        self._sizes = sizes
        self._durations = durations
        self._restarts = restarts
        self.slots: set[Slot] = set()

    def batch(self, size: int, seconds: float) -> None:
        """Record a batch that was answered."""
        # `Histogram.update`, twice, without its calls: this is done for each batch.
        sizes, durations = self._sizes, self._durations
        sizes.counts[bisect_left(SIZE_BUCKETS, size)] += 1
        sizes.sum += size
        durations.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        durations.sum += seconds

    def restarted(self, reason: RestartReason) -> None:
        """Count a worker that takes the place of one that ended."""
        self._restarts[reason].update(1.0)

    def joined(self, slot: Slot) -> None:
        """Know a slot until it ends."""
        self.slots.add(slot)

    def left(self, slot: Slot) -> None:
        """Forget a slot."""
        self.slots.discard(slot)


class VersionFamilies:
    """The metrics behind every `VersionMeter`.

    Args:
        host: the value of the host label.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._sizes = Family(BATCH_SIZE, SIZE_BUCKETS)
        self._durations = Family(HANDLER_DURATION, DURATION_BUCKETS)
        self._restarts = Family(RESTARTS)
        self.all = (self._sizes, self._durations, self._restarts)

    def meter(self, model: str, version: str) -> VersionMeter:
        """Return a new meter; all of its series show from now on."""
        sizes = self._sizes.child((model, version, self._host))
        durations = self._durations.child((model, version, self._host))
        assert isinstance(sizes, Histogram)
        assert isinstance(durations, Histogram)
        restarts: dict[RestartReason, Counter] = {}
        for reason in REASONS:
            child = self._restarts.child((model, version, reason, self._host))
            assert isinstance(child, Counter)
            restarts[reason] = child
        return VersionMeter(sizes, durations, restarts)

    def remove(self, model: str, version: str) -> None:
        """Forget the series of a version."""
        self._sizes.remove((model, version, self._host))
        self._durations.remove((model, version, self._host))
        for reason in REASONS:
            self._restarts.remove((model, version, reason, self._host))
