"""The meters that `core` keeps: series looked up once, so that the hot path only updates them.

`recorder` makes one `ModelMeter` for each model as clients name it, and one `VersionMeter` for
each registered version. What they feed beyond TorchServe's metrics is declared here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar, get_args

from ts_frontend.core.meter import Departure, Refusal, RestartReason
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
BATCHES_LEFT = MetricSpec(
    "ts_batches_left_total",
    "Batches",
    "counter",
    ("model_name", "model_version", "reason", "hostname"),
)
REFUSED = MetricSpec(
    "ts_requests_refused_total",
    "Requests",
    "counter",
    ("model_name", "model_version", "when", "hostname"),
)
# From a small model on a fast device to a long generation.
DURATION_BUCKETS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)
SIZE_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
REASONS: tuple[RestartReason, ...] = get_args(RestartReason)
DEPARTURES: tuple[Departure, ...] = get_args(Departure)
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
Name = TypeVar("Name", bound=str)


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
    """What the workers of one registered version did; ``slots`` are those that have not ended.

    ``departures`` and ``refusals`` are counted by its queue.
    """

    __slots__ = ("_durations", "_restarts", "_sizes", "departures", "refusals", "slots")

    def __init__(
        self,
        sizes: Histogram,
        durations: Histogram,
        restarts: dict[RestartReason, Counter],
        departures: dict[Departure, Counter],
        refusals: dict[Refusal, Counter],
    ) -> None:
        self.departures = departures
        self.refusals = refusals
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
        self._left = Family(BATCHES_LEFT)
        self._refused = Family(REFUSED)
        self.all = (self._sizes, self._durations, self._restarts, self._left, self._refused)

    def meter(self, model: str, version: str) -> VersionMeter:
        """Return a new meter; all of its series show from now on."""
        sizes = self._sizes.child((model, version, self._host))
        durations = self._durations.child((model, version, self._host))
        assert isinstance(sizes, Histogram)
        assert isinstance(durations, Histogram)
        return VersionMeter(
            sizes,
            durations,
            self._counters(self._restarts, REASONS, model, version),
            self._counters(self._left, DEPARTURES, model, version),
            self._counters(self._refused, REFUSALS, model, version),
        )

    def _counters(
        self, family: Family, names: Sequence[Name], model: str, version: str
    ) -> dict[Name, Counter]:
        counters: dict[Name, Counter] = {}
        for name in names:
            child = family.child((model, version, name, self._host))
            assert isinstance(child, Counter)
            counters[name] = child
        return counters

    def remove(self, model: str, version: str) -> None:
        """Forget the series of a version."""
        self._sizes.remove((model, version, self._host))
        self._durations.remove((model, version, self._host))
        for family, names in (
            (self._restarts, REASONS),
            (self._left, DEPARTURES),
            (self._refused, REFUSALS),
        ):
            for name in names:
                family.remove((model, version, name, self._host))
