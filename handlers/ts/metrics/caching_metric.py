"""A metric whose observations leave the worker as log records.

The line is TorchServe's; the record also carries the observation as a tuple, so that the
runtime forwards it without formatting or parsing anything.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from typing import Any, Callable, ClassVar, Dict, List, Optional, Sequence, Tuple

from ts.metrics.line import one_line
from ts.metrics.metric_abstract import MetricAbstract

Metric = Tuple[str, str, str, float, List[Tuple[str, str]], str]

logger = logging.getLogger(__name__)


class MetricRecord(logging.LogRecord):
    """One observation in the log. Its text is written only when a handler asks for it.

    ``metric`` is (name, long unit, type, value, [(label, its value), ...], request ids).
    """

    metric: Metric
    # What all records of this process share: filling it in anew takes longer than the rest of a
    # request. The pid tells whether it is this process's own or was inherited by a fork.
    _shared: ClassVar[Dict[str, Any]] = {"process": None}

    def __init__(self, metric: Metric) -> None:
        now = time.time()
        if self._shared["process"] != os.getpid():
            blank = logging.LogRecord(logger.name, logging.INFO, __file__, 0, "", None, None)
            MetricRecord._shared = dict(vars(blank))
        values = self.__dict__
        values.update(self._shared)
        values["metric"] = metric
        values["created"] = now
        values["msecs"] = int(now % 1 * 1000) + 0.0

    def getMessage(self) -> str:
        name, unit, kind, value, pairs, request_ids = self.metric
        labels = ",".join([f"{key}:{label}" for key, label in pairs])
        tail = f",{request_ids}" if request_ids else ""
        return one_line(
            f"[METRICS]{name}.{unit}:{value}|#{labels}|#type:{kind.upper()}"
            f"|#hostname:{socket.gethostname()},{int(self.created)}{tail}"
        )


def _only_taker() -> Optional[Callable[[Metric], None]]:
    """What takes observations as they are, where nobody else would see the record: the ``observe``
    of the root logger's only handler, if no logger on the way has a handler or filter."""
    at: Any = logger
    while at.parent is not None:
        if at.handlers or at.filters or not at.propagate:
            return None
        at = at.parent
    if len(at.handlers) != 1 or at.handlers[0].filters:
        return None
    return getattr(at.handlers[0], "observe", None)


class CachingMetric(MetricAbstract):
    """TorchServe's metric class; `context.metrics` hands these out."""

    def add_or_update(
        self, value: float, dimension_values: Sequence[str] = (), request_id: str = ""
    ) -> None:
        """Observe a value: added to a counter, set on a gauge, sorted into a histogram.

        A negative counter value or a wrong number of label values is logged, not raised, as in
        TorchServe: a metric must not fail a prediction.
        """
        if type(value) is not float and type(value) is not int:
            try:
                value = float(value)  # a tensor's or numpy's scalar
            except (TypeError, ValueError, OverflowError):
                self._complain(value, dimension_values, "the value is no number")
                return
        if len(dimension_values) != len(self.dimension_names):
            expected = f"expected the dimensions {self.dimension_names}"
            self._complain(value, dimension_values, expected)
        elif value < 0 and self.metric_type.value == "counter":
            self._complain(value, dimension_values, "a counter cannot go down")
        elif logger.isEnabledFor(logging.INFO):
            self._emit(value, list(zip(self.dimension_names, dimension_values)), request_id)

    def update(self, value: float, request_id: str = "", dimensions: Sequence[Any] = ()) -> None:
        """Observe with `Dimension` objects, whose names replace this metric's label names."""
        logger.warning("Overriding existing dimensions of metric %s", self.metric_name)
        self.dimension_names = [dimension.name for dimension in dimensions]
        self.add_or_update(value, [str(dimension.value) for dimension in dimensions], request_id)

    def emit_metrics(self, request_id: str, value: float, dimension_string: str) -> None:
        """Log an observation whose labels are already ``name:value,name:value`` text."""
        pairs: List[Tuple[str, str]] = []
        for part in filter(None, dimension_string.split(",")):
            name, _, label = part.partition(":")
            pairs.append((name, label))
        self._emit(value, pairs, request_id)

    def _emit(self, value: float, pairs: List[Tuple[str, str]], request_id: str) -> None:
        metric = (
            self.metric_name,
            self.unit,
            self.metric_type.value,
            value,
            pairs,
            request_id or "",
        )
        take = _only_taker()
        if take is not None:
            take(metric)
        else:
            logger.handle(MetricRecord(metric))

    def _complain(self, value: Any, dimension_values: Sequence[str], reason: str) -> None:
        logger.error(
            "[METRICS]Failed to update metric with name:%s and dimensions: %s with value: %s: %s",
            one_line(str(self.metric_name)),
            one_line(",".join(map(str, dimension_values))),
            value,
            reason,
        )
