"""`context.metrics`: how a handler records counters, gauges and histograms.

A metric is known by type and name. The first use defines its unit and label names, or
metrics.yaml does; later uses only add observations.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric_cache_errors import (
    MetricsCacheKeyError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from ts.metrics.metric_type_enum import MetricTypes

_NAMES = ("ModelName", "Level")
_TIME_UNITS = ("ms", "s")
_SIZE_UNITS = ("MB", "kB", "GB", "B")


class MetricCacheAbstract(ABC):
    """Metrics of one worker. Lists of dimensions that are passed in are never changed."""

    def __init__(self, config_file_path: str) -> None:
        self.cache: Dict[MetricTypes, Dict[str, CachingMetric]] = {kind: {} for kind in MetricTypes}
        self.store: List[Any] = []
        self.request_ids: Union[str, Mapping[int, str], None] = None
        self.model_name: Optional[str] = None
        self.config_file_path = config_file_path

    @abstractmethod
    def initialize_cache(self) -> None:
        """Define the metrics of the configuration."""

    def set_request_ids(self, request_ids: Union[str, Mapping[int, str], None]) -> None:
        """The requests that coming observations belong to: batch index to id, or one id."""
        self.request_ids = request_ids

    def cache_keys(self) -> List[str]:
        """Every defined metric as ``type:name``."""
        return [f"{kind.value}:{name}" for kind, named in self.cache.items() for name in named]

    def get_metric(
        self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER
    ) -> CachingMetric:
        """A defined metric.

        Raises:
            MetricsCacheKeyError: none of that name and type.
        """
        metric = self.cache.get(metric_type, {}).get(metric_name)
        if metric is None:
            raise MetricsCacheKeyError(
                f"There is no {getattr(metric_type, 'value', metric_type)} named "
                f"{metric_name!r}; define it in metrics.yaml or with add_metric_to_cache"
            )
        return metric

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: Optional[str],
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Define a metric, or define it anew, without an observation.

        Raises:
            MetricsCacheTypeError: an argument has the wrong type; the texts are TorchServe's.
        """
        if not isinstance(metric_name, str):
            raise MetricsCacheTypeError("`metric_name` must be a str")
        if not isinstance(unit, str):
            raise MetricsCacheTypeError("`unit` must be a str")
        _check_type(metric_type)
        names = list(dimension_names or ()) if not isinstance(dimension_names, str) else [None]
        if not all(isinstance(name, str) for name in names):
            raise MetricsCacheTypeError(
                "`dimension_names` should be a list of dimension name strings"
            )
        metric = CachingMetric(metric_name, unit, dimension_names, metric_type)
        self.cache[metric_type][metric_name] = metric
        return metric

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: Optional[int] = None,
        dimensions: Optional[Sequence[Dimension]] = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Observe a value.

        Args:
            idx: batch index of the request it belongs to; None for the whole batch.
            dimensions: labels; ModelName and Level are added where they are missing.

        Raises:
            MetricsCacheTypeError: ``metric_type`` is none; the name of one does not do.
        """
        self._observe(name, value, unit, self._request_id(idx), dimensions, metric_type)

    def add_counter(
        self,
        name: str,
        value: float,
        idx: Optional[int] = None,
        dimensions: Optional[Sequence[Dimension]] = None,
    ) -> None:
        """Add ``value`` (not negative) to a counter."""
        self._observe(name, value, "count", self._request_id(idx), dimensions, MetricTypes.COUNTER)

    def add_time(
        self,
        name: str,
        value: float,
        idx: Optional[int] = None,
        unit: str = "ms",
        dimensions: Optional[Sequence[Dimension]] = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Observe a time in ``ms`` or ``s``; other units raise MetricsCacheValueError."""
        _check_unit(unit, _TIME_UNITS)
        self._observe(name, value, unit, self._request_id(idx), dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: Optional[int] = None,
        unit: str = "MB",
        dimensions: Optional[Sequence[Dimension]] = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Observe a size in ``MB``, ``kB``, ``GB`` or ``B``; else MetricsCacheValueError."""
        _check_unit(unit, _SIZE_UNITS)
        self._observe(name, value, unit, self._request_id(idx), dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: Optional[int] = None,
        dimensions: Optional[Sequence[Dimension]] = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Observe a percentage."""
        self._observe(name, value, "percent", self._request_id(idx), dimensions, metric_type)

    def add_error(
        self, name: str, value: float, dimensions: Optional[Sequence[Dimension]] = None
    ) -> None:
        """Count an error that belongs to no request: its Level is Error."""
        self._observe(name, value, "", "", dimensions, MetricTypes.COUNTER)

    def _request_id(self, idx: Optional[int]) -> str:
        ids = self.request_ids
        if not ids:
            return ""
        if isinstance(ids, str):
            return ids
        if not isinstance(ids, (dict, Mapping)):
            return str(ids)  # a uuid, as tests of handlers give one
        if idx is not None and idx in ids:
            return ids[idx]
        return ",".join(ids.values())

    def _observe(
        self,
        name: str,
        value: float,
        unit: str,
        request_id: str,
        dimensions: Optional[Sequence[Dimension]],
        metric_type: MetricTypes,
    ) -> None:
        _check_type(metric_type)
        names, labels = self._labels(dimensions, request_id)
        metric = self.cache[metric_type].get(name)
        if metric is None:
            metric = self.add_metric_to_cache(name, unit, names, metric_type)
        metric.add_or_update(value, labels, request_id)

    def _labels(
        self, dimensions: Optional[Sequence[Dimension]], request_id: str
    ) -> Tuple[Sequence[str], Sequence[str]]:
        """Label names and values: the caller's, then TorchServe's defaults."""
        if not dimensions and request_id:
            return _NAMES, (str(self.model_name), "Model")
        names = [dimension.name for dimension in dimensions or ()]
        labels = [str(dimension.value) for dimension in dimensions or ()]
        defaults = (
            (("ModelName", str(self.model_name)), ("Level", "Model"))
            if request_id
            else (("Level", "Error"),)
        )
        for default, label in defaults:
            if default not in names:
                names.append(default)
                labels.append(label)
        return names, labels


def _check_type(metric_type: Any) -> None:
    if not isinstance(metric_type, MetricTypes):
        raise MetricsCacheTypeError("`metric_type` must be a MetricTypes enum")


def _check_unit(unit: str, known: Tuple[str, ...]) -> None:
    if unit not in known:
        raise MetricsCacheValueError(f"the unit for a metric must be one of {list(known)}: {unit}")
