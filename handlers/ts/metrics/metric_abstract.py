"""What every metric of the cache is: a name, a unit, label names and a type."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import List, Optional, Sequence

from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.unit import LONG_FORMS


class MetricAbstract(ABC):
    """One metric of a model.

    Args:
        unit: short or long form; kept in the long one.
        dimension_names: label names, in the order in which values will come.
    """

    def __init__(
        self,
        metric_name: str,
        unit: Optional[str],
        dimension_names: Optional[Sequence[str]] = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        self.metric_name = metric_name
        self.unit = LONG_FORMS.get(unit, unit) or "unit"
        self.dimension_names: List[str] = list(dimension_names or ())
        self.metric_type = metric_type

    @abstractmethod
    def add_or_update(
        self, value: float, dimension_values: Sequence[str] = (), request_id: str = ""
    ) -> None:
        """Observe ``value`` for these label values."""
