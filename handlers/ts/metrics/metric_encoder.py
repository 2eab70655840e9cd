"""JSON for lists of metrics: ``json.dumps(metrics, cls=MetricEncoder)``."""

from __future__ import annotations

from json import JSONEncoder
from typing import Any

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric


class MetricEncoder(JSONEncoder):
    """Writes `Metric` and `Dimension` objects as their dictionaries."""

    def default(self, o: Any) -> Any:
        if isinstance(o, (Metric, Dimension)):
            return o.to_dict()
        return super().default(o)
