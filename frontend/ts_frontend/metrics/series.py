"""One metric with fixed label values: its place in the registry and its line in a metric log.

`recorder` makes them once per label set; the hot path then only calls `update`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ts_frontend.log_text import one_line
from ts_frontend.metrics.family import Child
from ts_frontend.metrics.spec import MetricSpec
from ts_frontend.metrics.text import java_double

# Takes a line, and what it is made of.
Write = Callable[[str, Sequence[object]], None]


class MetricLog(Protocol):
    """The two metric logs; `ts_frontend.logs.Logs` has both methods, and ``METRIC_FIELDS``."""

    def ts_metric(self, line: str, fields: Sequence[object], /) -> None: ...
    def model_metric(self, line: str, fields: Sequence[object], /) -> None: ...


class Series:
    """One metric with its label values fixed: updates it and writes its log line."""

    __slots__ = (
        "_child",
        "_clock",
        "_end",
        "_facts",
        "_fields",
        "_line",
        "_prefix",
        "_second",
        "_suffix",
        "_until",
        "_value",
        "_write",
    )

    def __init__(
        self,
        spec: MetricSpec,
        values: tuple[str, ...],
        child: Child | None,
        write: Write | None,
        clock: Callable[[], float],
    ) -> None:
        self._clock = clock
        self._child = child
        self._write = write
        # The host's name is the last dimension and has its own place in the line (§6.5).
        labels = dict(zip(spec.dimensions[:-1], values[:-1], strict=True))
        dimensions = ",".join(f"{name}:{value}" for name, value in labels.items())
        self._facts = (spec.name, spec.unit, spec.kind, labels, values[-1])
        self._prefix = one_line(f"{spec.name}.{spec.unit}:")
        self._suffix = one_line(f"|#{dimensions}|#hostname:{values[-1]}")
        # The line's end carries the time in whole seconds; it is made anew once a second. Counts
        # and times in whole milliseconds repeat themselves: so does their line, until then.
        self._end = ""
        self._second = 0
        self._until = 0.0
        self._value = -1.0
        self._line = ""
        self._fields: Sequence[object] = ()

    def update(self, value: float, request_ids: str = "") -> None:
        """Record one observation; a counter's log line carries the increment."""
        if self._child is not None:
            self._child.update(value)
        if self._write is None:
            return
        now = self._clock()
        if not self._until - 1.0 <= now < self._until:
            self._second = second = int(now)
            self._until = second + 1.0
            self._end = f",timestamp:{second}"
            self._line = ""
        if request_ids:
            text, ids = java_double(value), one_line(request_ids)
            self._write(
                f"{self._prefix}{text}{self._suffix},requestID:{ids}{self._end}",
                (*self._facts, value, self._second, request_ids),
            )
            return
        if value != self._value or not self._line:
            self._value = value
            self._line = f"{self._prefix}{java_double(value)}{self._suffix}{self._end}"
            self._fields = (*self._facts, value, self._second)
        self._write(self._line, self._fields)
