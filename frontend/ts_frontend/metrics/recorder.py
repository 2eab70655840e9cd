"""Every observation of the server goes through here: to the Prometheus registry and, in the
modes `log` and `legacy`, to ts_metrics.log and model_metrics.log (reference §6).

Built by `server`; called by `http` and `core`. Methods never block and never raise.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from ts_frontend.core.status import Status
from ts_frontend.metrics.family import Family, presentable
from ts_frontend.metrics.live import MEMORY_NAMES, LiveGauges, Usage, WorkerMemory, pids
from ts_frontend.metrics.meters import (
    DURATION_BUCKETS,
    DURATIONS,
    REQUEST_SERIES,
    ModelMeter,
    VersionFamilies,
    VersionMeter,
)
from ts_frontend.metrics.series import MetricLog, Series, Write
from ts_frontend.metrics.spec import KINDS, MetricSpec, Spec
from ts_worker.messages import Metric

if TYPE_CHECKING:
    from ts_frontend.core.slot import Slot

log = logging.getLogger(__name__)

# In mode `legacy` these three were Prometheus counters only, all others log lines only.
UNLOGGED_IN_LEGACY = frozenset(
    {
        "ts_inference_requests_total",
        "ts_inference_latency_microseconds",
        "ts_queue_latency_microseconds",
    }
)


class Recorder:
    """The registry of all metrics, and the writer of the metric logs.

    Args:
        spec: the metrics there are; observations of others are dropped (§6.2).
        logs: where lines go in the modes `log` and `legacy`.
        mode: `metrics_mode` of the configuration. /metrics shows everything in each of them.
        host: the value of the host label.
        auto_detect: `model_metrics_auto_detect`: also keep model metrics that ``spec`` lacks.
        status: looks at the registered versions: the gauges of `live` show them, and series of
            versions that are gone are removed. None: no such gauges, and all series stay.
        memory: tells what the processes of workers hold.
    """

    def __init__(
        self,
        spec: Spec,
        logs: MetricLog,
        *,
        host: str,
        mode: Literal["log", "prometheus", "legacy"] = "log",
        auto_detect: bool = False,
        clock: Callable[[], float] = time.time,
        status: Status | None = None,
        memory: WorkerMemory | None = None,
    ) -> None:
        self.host = host
        self._logs = logs
        self._mode = mode
        self._auto_detect = auto_detect
        self._clock = clock
        self._status = status
        self._memory = memory or WorkerMemory()
        self._families: dict[str, Family] = {}
        self._model_specs: dict[str, MetricSpec] = {metric.name: metric for metric in spec.model}
        self._ts_specs: dict[str, MetricSpec] = {metric.name: metric for metric in spec.ts}
        self._meters: dict[tuple[str, str], ModelMeter] = {}
        self._versions: dict[tuple[str, str], VersionMeter] = {}
        self._version_families = VersionFamilies(host)
        self._live = LiveGauges(host)
        self._series: dict[tuple[str, tuple[str, ...]], Series | None] = {}
        self._model_series: dict[tuple[str, str, tuple[tuple[str, str], ...]], Series | None] = {}
        self._complained: set[str] = set()
        self._declare((*spec.ts, *spec.model))
        if spec.ts:
            for extra in DURATIONS:
                self._ts_specs[extra.name] = extra
                self._families[extra.name] = Family(extra, DURATION_BUCKETS)
            live = self._live.all if status is not None else ()
            for family in (*self._version_families.all, *live):
                self._families[family.spec.name] = family
        self._ok = self.series("Requests2XX", ("Host",))
        self._client_error = self.series("Requests4XX", ("Host",))
        self._other = self.series("Requests5XX", ("Host",))
        self._queue_time = self.series("QueueTime", ("Host",))
        self._thread_time = self.series("WorkerThreadTime", ("Host",))

    def http_status(self, status: int) -> None:
        """Count one REST response; all that is neither 2xx nor 4xx is Requests5XX (§6.4)."""
        if 200 <= status < 300:
            series = self._ok
        elif 400 <= status < 500:
            series = self._client_error
        else:
            series = self._other
        if series is not None:
            series.update(1.0)

    def meter(self, model: str, version: str) -> ModelMeter:
        """Return the counters of a model and version as requested, or version "default"."""
        meter = self._meters.get((model, version))
        if meter is None:
            self._tidy()
            meter = ModelMeter(lambda name: self.series(name, (model, version)))
            self._meters[model, version] = meter
        return meter

    def version(self, model: str, version: str) -> VersionMeter:
        """Return the meter of a registered version."""
        meter = self._versions.get((model, version))
        if meter is None:
            self._tidy()
            meter = self._versions[model, version] = self._version_families.meter(model, version)
        return meter

    def queue_time(self, milliseconds: int) -> None:
        """Record how long a request waited for a worker."""
        if self._queue_time is not None:
            self._queue_time.update(float(milliseconds))

    def worker_thread_time(self, milliseconds: int) -> None:
        """Record a worker round trip less the time the worker itself took."""
        if self._thread_time is not None:
            self._thread_time.update(float(milliseconds))

    def worker_load_time(self, worker: str, milliseconds: int) -> None:
        """Record how long a worker such as ``W-9000-resnet_1.0`` took until its model was up."""
        labels = (worker, "Host")
        if ("WorkerLoadTime", labels) not in self._series:
            self._tidy()
        series = self.series("WorkerLoadTime", labels)
        if series is not None:
            series.update(float(milliseconds))

    def system(
        self, name: str, unit: str, value: float, dimensions: tuple[tuple[str, str], ...]
    ) -> None:
        """Record a figure of the machine. The unit shown is the one metrics.yaml gives."""
        series = self.series(name, tuple(value for _, value in dimensions))
        if series is not None:
            series.update(float(value))

    def model_metric(self, metric: Metric) -> None:
        """Record what a handler reported; unknown names are dropped unless auto-detected."""
        key = (metric.name, metric.type, metric.dimensions)
        try:
            series = self._model_series[key]
        except KeyError:
            series = self._model_series[key] = self._resolve_model(metric)
        if series is not None:
            series.update(float(metric.value), metric.request_ids)

    async def page(self, names: Sequence[str]) -> bytes:
        """Look at the versions and their workers, then `render`."""
        if self._status is None:
            return self.render(names)
        usage = Usage()
        if not names or not MEMORY_NAMES.isdisjoint(names):
            asked = pids(self._status.versions(self._slots))
            usage = await asyncio.to_thread(self._memory.usage, asked)
        self._tidy()
        self._live.fill(self._status.versions(self._slots), usage)
        return self.render(names)

    def render(self, names: Sequence[str]) -> bytes:
        """Return Prometheus text of all metrics, or of the samples in ``names`` only (§6.1)."""
        wanted = frozenset(names)
        text = "".join(family.text(wanted) for family in self._families.values())
        return text.encode("utf-8", "replace")

    def series(self, name: str, values: tuple[str, ...]) -> Series | None:
        """Return the series of a metric of the server, without the host's label; None if dropped.

        Label values are matched to the dimensions of metrics.yaml by position, so that a file
        with other names for them keeps working, as it did with TorchServe.
        """
        key = (name, values)
        if key not in self._series:
            self._series[key] = self._resolve(name, values)
        return self._series[key]

    def _slots(self, model: str, version: str) -> Collection[Slot]:
        meter = self._versions.get((model, version))
        return meter.slots if meter is not None else ()

    def _tidy(self) -> None:
        """Remove what belongs to versions that were unregistered and have no worker left.

        Done when series are read and before new ones are made, so that they cannot pile up.
        """
        if self._status is None:
            return
        kept = self._status.registered()
        kept.update(key for key, meter in self._versions.items() if meter.slots)
        gone = self._versions.keys() - kept
        for model, version in gone:
            del self._versions[model, version]
            self._version_families.remove(model, version)
        models = {model for model, _ in kept}
        for model, asked in list(self._meters):
            if model not in models or (asked != "default" and (model, asked) not in kept):
                del self._meters[model, asked]
                for name in REQUEST_SERIES:
                    self._drop(name, (model, asked))
        workers = {slot.name for meter in self._versions.values() for slot in meter.slots}
        for name, values in list(self._series):
            if name == "WorkerLoadTime" and values[0] not in workers:
                self._drop(name, values)
        self._drop_models({model for model, _ in gone} - models)

    def _drop(self, name: str, values: tuple[str, ...]) -> None:
        self._series.pop((name, values), None)
        if name in self._families:
            self._families[name].remove((*values, self.host))

    def _drop_models(self, models: Collection[str]) -> None:
        """Remove what handlers reported of these models."""
        owners = {("ModelName", model) for model in models}
        for key in [key for key in self._model_series if not owners.isdisjoint(key[2])]:
            del self._model_series[key]
            if key[0] in self._families:
                values = tuple(value for _, value in key[2])
                self._families[key[0]].remove((*values, self.host))

    def _declare(self, metrics: Iterable[MetricSpec]) -> None:
        for spec in metrics:
            if spec.name in self._families:
                self._complain(spec.name, "is defined twice in metrics.yaml; the first counts")
            elif presentable(spec):
                self._families[spec.name] = Family(spec)
            else:
                self._complain(spec.name, "is no name for Prometheus; it is only logged")

    def _resolve(self, name: str, values: tuple[str, ...]) -> Series | None:
        spec = self._ts_specs.get(name)
        if spec is None or not self._fits(spec, values):
            return None
        logged = self._mode == "log" or (self._mode == "legacy" and name not in UNLOGGED_IN_LEGACY)
        logged = logged and spec not in DURATIONS
        return self._bind(spec, values, self._logs.ts_metric if logged else None)

    def _resolve_model(self, metric: Metric) -> Series | None:
        spec = self._model_specs.get(metric.name)
        if spec is None:
            if not self._auto_detect or metric.type not in KINDS:
                return None
            names = (*(name for name, _ in metric.dimensions), "Hostname")
            spec = MetricSpec(metric.name, metric.unit, metric.type, names)
            self._model_specs[metric.name] = spec
            self._declare((spec,))
        values = tuple(value for _, value in metric.dimensions)
        if not self._fits(spec, values):
            return None
        write = None if self._mode == "prometheus" else self._logs.model_metric
        return self._bind(spec, values, write)

    def _bind(self, spec: MetricSpec, values: tuple[str, ...], write: Write | None) -> Series:
        labels = (*values, self.host)
        family = self._families.get(spec.name)
        # Two entries of one name: only the one that made the family may feed it.
        child = family.child(labels) if family is not None and family.spec == spec else None
        return Series(spec, labels, child, write, self._clock)

    def _fits(self, spec: MetricSpec, values: tuple[str, ...]) -> bool:
        if len(values) + 1 == len(spec.dimensions):
            return True
        self._complain(
            spec.name,
            f"has dimensions {', '.join(spec.dimensions)} in metrics.yaml, but came with "
            f"{len(values)} and the host; it is dropped",
        )
        return False

    def _complain(self, name: str, what: str) -> None:
        if name not in self._complained:
            self._complained.add(name)
            log.warning("Metric %s %s.", name, what)
