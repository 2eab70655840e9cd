"""A single metric with its value, as handlers written before the metrics cache build them."""

from __future__ import annotations

import socket
import time
from typing import Any, Dict, List, Optional, Sequence

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.line import one_line
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import LONG_FORMS


class Metric:
    """A named value with its labels.

    Args:
        metric_method: "counter" for a counter; anything else is a gauge.
    """

    def __init__(
        self,
        name: str,
        value: float,
        unit: Optional[str],
        dimensions: Sequence[Dimension],
        request_id: Optional[str] = None,
        metric_method: Optional[str] = None,
    ) -> None:
        self.name = name
        self.unit = LONG_FORMS.get(unit, unit) or "unit"
        self.metric_method = metric_method
        self.value = value
        self.dimensions: List[Dimension] = list(dimensions)
        self.request_id = request_id

    def update(self, value: float) -> None:
        """Log an observation. `value` of this object stays, as in TorchServe: the sum is kept
        by whoever reads the lines."""
        kind = MetricTypes.COUNTER if self.metric_method == "counter" else MetricTypes.GAUGE
        names = [dimension.name for dimension in self.dimensions]
        metric = CachingMetric(self.name, self.unit, names, kind)
        labels = [str(dimension.value) for dimension in self.dimensions]
        metric.add_or_update(value, labels, self.request_id or "")

    def reset(self) -> None:
        """Log an observation of zero."""
        self.update(0)

    def __str__(self) -> str:
        labels = ",".join(map(str, self.dimensions))
        tail = f",{self.request_id}" if self.request_id else ""
        return one_line(
            f"{self.name}.{self.unit}:{self.value}|#{labels}"
            f"|#hostname:{socket.gethostname()},{int(time.time())}{tail}"
        )

    def to_dict(self) -> Dict[str, Any]:
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": [dimension.to_dict() for dimension in self.dimensions],
            "Timestamp": int(time.time()),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }
