"""The predecessor of the metrics cache, kept for handlers and tests that build one themselves."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_type_enum import MetricTypes


class MetricsStore(MetricCacheAbstract):
    """Metrics without a configuration file; the add_* methods are the cache's.

    The first observation of a metric is kept in ``store`` for whoever reads it; later ones of the
    same request and dimensions are logged, as in TorchServe.

    Args:
        request_ids: batch index to request id, or one id for all.
    """

    def __init__(self, request_ids: Any, model_name: str) -> None:
        super().__init__("")
        self.request_ids = request_ids
        self.model_name = model_name
        self._known: Dict[str, Metric] = {}

    def initialize_cache(self) -> None:
        """Nothing is defined ahead."""

    def _observe(
        self,
        name: str,
        value: float,
        unit: str,
        request_id: str,
        dimensions: Optional[Sequence[Dimension]],
        metric_type: MetricTypes,
    ) -> None:
        names, labels = self._labels(dimensions, request_id)
        pairs = [Dimension(key, label) for key, label in zip(names, labels)]
        known = "-".join([name, unit, request_id, *map(str, pairs)])
        if known in self._known:
            self._known[known].update(value)
            return
        method = "counter" if metric_type is MetricTypes.COUNTER else None
        metric = Metric(name, value, unit, pairs, request_id or None, method)
        self._known[known] = metric
        self.store.append(metric)
