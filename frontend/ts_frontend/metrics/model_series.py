"""The metrics that handlers report: whose they are, and no more of them than memory takes.

`recorder` owns it. Names and dimensions are a handler's choice, and often a client's in the end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Set

from ts_frontend.metrics.registry import Registry
from ts_frontend.metrics.series import Series, Write
from ts_frontend.metrics.spec import KINDS, MetricSpec
from ts_worker.messages import Metric

log = logging.getLogger(__name__)

MAX_SERIES = 10_000  # of one metric
MAX_DETECTED = 1000  # metrics that metrics.yaml does not list

Owner = tuple[str, str]  # model and version


class ModelSeries:
    """Finds the series of an observation, and drops those of versions that are gone.

    What is refused is not remembered: it would be remembered anew for each value of a dimension.

    Args:
        listed: what metrics.yaml has for models.
        auto_detect: also take what it does not list.
        write: takes log lines.
    """

    def __init__(
        self,
        registry: Registry,
        listed: Iterable[MetricSpec],
        *,
        auto_detect: bool,
        write: Write | None,
    ) -> None:
        self._registry = registry
        self._specs = {metric.name: metric for metric in listed}
        self._room = MAX_DETECTED if auto_detect else 0
        self._auto_detect = auto_detect
        self._write = write
        self._owned: dict[Owner, dict[tuple[str, tuple[tuple[str, str], ...]], Series]] = {}
        # Of each metric, by label values: who has reported a series.
        self._owners: dict[str, dict[tuple[str, ...], set[Owner]]] = {}
        self._full: set[str] = set()

    def record(self, metric: Metric, model: str, version: str) -> None:
        """Record what a handler of this version reported; unknown names are dropped."""
        owner = (model, version)
        try:
            series: Series | None = self._owned[owner][metric.name, metric.dimensions]
        except KeyError:
            series = self._find(metric, owner)
        if series is not None:
            series.update(float(metric.value), metric.request_ids)

    def keep(self, owners: Set[Owner]) -> None:
        """Drop what only others than these have reported."""
        for owner in self._owned.keys() - owners:
            for name, dimensions in self._owned.pop(owner):
                values = tuple(value for _, value in dimensions)
                others = self._owners[name][values]
                others.discard(owner)
                if not others:
                    del self._owners[name][values]
                    self._registry.remove(self._specs[name], values)

    def _find(self, metric: Metric, owner: Owner) -> Series | None:
        spec = self._specs.get(metric.name) or self._detect(metric)
        values = tuple(value for _, value in metric.dimensions)
        if spec is None or not self._registry.fits(spec, values):
            return None
        known = self._owners.setdefault(spec.name, {})
        if values not in known and len(known) >= MAX_SERIES:
            self._overflow(spec.name)
            return self._registry.bind(spec, values, self._write, shown=False)
        series = self._registry.bind(spec, values, self._write)
        owners = known.setdefault(values, set())
        if owner not in owners:  # else it is known by other names of its dimensions
            owners.add(owner)
            self._owned.setdefault(owner, {})[metric.name, metric.dimensions] = series
        return series

    def _detect(self, metric: Metric) -> MetricSpec | None:
        if not self._auto_detect or metric.type not in KINDS:
            return None
        if not self._room:
            if "" not in self._full:
                self._full.add("")
                log.warning(
                    "Metric %s and other new ones are dropped: model_metrics_auto_detect has found "
                    "%s already. List those that are needed in metrics.yaml.",
                    metric.name,
                    MAX_DETECTED,
                )
            return None
        self._room -= 1
        names = (*(name for name, _ in metric.dimensions), "Hostname")
        spec = MetricSpec(metric.name, metric.unit, metric.type, names)
        self._specs[metric.name] = spec
        self._registry.declare((spec,))
        return spec

    def _overflow(self, name: str) -> None:
        if name not in self._full:
            self._full.add(name)
            log.warning(
                "Metric %s has %s series: further ones are not in /metrics. Leave out a dimension "
                "that has ever new values, such as the id of a request.",
                name,
                MAX_SERIES,
            )
