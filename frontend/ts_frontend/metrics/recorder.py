"""Every observation of the server goes through here: to the Prometheus registry and, in the
modes `log` and `legacy`, to ts_metrics.log and model_metrics.log (reference §6).

Built by `server`; called by `http` and `core`. Methods never block and never raise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

from ts_frontend.core.status import Status
from ts_frontend.metrics.family import Family
from ts_frontend.metrics.live import MEMORY_NAMES, LiveGauges, Usage, WorkerMemory, pids
from ts_frontend.metrics.meters import (
    DURATION_BUCKETS,
    DURATIONS,
    REQUEST_SERIES,
    ModelMeter,
    VersionFamilies,
    VersionMeter,
)
from ts_frontend.metrics.model_series import ModelSeries
from ts_frontend.metrics.registry import Registry
from ts_frontend.metrics.series import MetricLog, Series
from ts_frontend.metrics.spec import MetricSpec, Spec
from ts_worker.messages import Metric

if TYPE_CHECKING:
    from ts_frontend.core.slot import Slot

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
        status: Status | None = None,
        memory: WorkerMemory | None = None,
    ) -> None:
        self.host = host
        self._logs = logs
        self._mode = mode
        self._status = status
        self._memory = memory or WorkerMemory()
        self._registry = Registry(host)
        self._ts_specs: dict[str, MetricSpec] = {metric.name: metric for metric in spec.ts}
        self._meters: dict[tuple[str, str], ModelMeter] = {}
        self._versions: dict[tuple[str, str], VersionMeter] = {}
        self._version_families = VersionFamilies(host)
        self._live = LiveGauges(host)
        self._series: dict[tuple[str, tuple[str, ...]], Series | None] = {}
        self._models = ModelSeries(
            self._registry,
            spec.model,
            auto_detect=auto_detect,
            write=None if mode == "prometheus" else logs.model_metrics,
        )
        self._registry.declare((*spec.ts, *spec.model))
        if spec.ts:
            for extra in DURATIONS:
                self._ts_specs[extra.name] = extra
                self._registry.add(Family(extra, DURATION_BUCKETS))
            live = self._live.all if status is not None else ()
            self._registry.add(*self._version_families.all, *live)
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
            labels = (model, version)
            meter = ModelMeter(lambda name: self.series(name, labels), self._queue_time)
            self._meters[model, version] = meter
        return meter

    def version(self, model: str, version: str) -> VersionMeter:
        """Return the meter of a registered version."""
        meter = self._versions.get((model, version))
        if meter is None:
            self._tidy()
            meter = self._versions[model, version] = self._version_families.meter(model, version)
        return meter

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

    def model_metric(self, metric: Metric, model: str, version: str) -> None:
        """Record what a handler of this version reported; unknown names are dropped unless
        auto-detected."""
        self._models.record(metric, model, version)

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
        return self._registry.text(names).encode("utf-8", "replace")

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
        self._models.keep(kept)

    def _drop(self, name: str, values: tuple[str, ...]) -> None:
        self._series.pop((name, values), None)
        if name in self._ts_specs:
            self._registry.remove(self._ts_specs[name], values)

    def _resolve(self, name: str, values: tuple[str, ...]) -> Series | None:
        spec = self._ts_specs.get(name)
        if spec is None or not self._registry.fits(spec, values):
            return None
        logged = self._mode == "log" or (self._mode == "legacy" and name not in UNLOGGED_IN_LEGACY)
        logged = logged and spec not in DURATIONS
        return self._registry.bind(spec, values, self._logs.ts_metrics if logged else None)
