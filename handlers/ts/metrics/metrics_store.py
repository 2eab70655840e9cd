"""The predecessor of the metrics cache, kept for handlers and tests that build one themselves."""

from __future__ import annotations

from typing import Mapping, Optional

from ts.metrics.metric_cache_abstract import MetricCacheAbstract


class MetricsStore(MetricCacheAbstract):
    """Metrics without a configuration file; the add_* methods are the cache's.

    Args:
        request_ids: batch index to request id.
    """

    def __init__(self, request_ids: Optional[Mapping[int, str]], model_name: str) -> None:
        super().__init__("")
        self.request_ids = request_ids
        self.model_name = model_name

    def initialize_cache(self) -> None:
        """Nothing is defined ahead."""
