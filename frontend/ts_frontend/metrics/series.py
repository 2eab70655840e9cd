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

# Takes lines, and what each of them is made of.
Write = Callable[[Sequence[str], Sequence[Sequence[object]]], None]


class MetricLog(Protocol):
    """The two metric logs; `ts_frontend.logs.Logs` has both methods, and ``METRIC_FIELDS``."""

    def ts_metrics(self, lines: Sequence[str], fields: Sequence[Sequence[object]], /) -> None: ...
    def model_metrics(
        self, lines: Sequence[str], fields: Sequence[Sequence[object]], /
    ) -> None: ...


class Series:
    """One metric with its label values fixed: updates it and writes its log line.

    Attributes:
        child: its place in the registry; None where /metrics does not show it.
    """

    __slots__ = (
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
        "child",
        "write",
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
        self.child = child
        self.write = write
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
        if self.child is not None:
            self.child.update(value)
        if self.write is None:
            return
        now = self._clock()
        if request_ids:
            self._renew(now)
            text, ids = java_double(value), one_line(request_ids)
            line = f"{self._prefix}{text}{self._suffix},requestID:{ids}{self._end}"
            self.write((line,), ((*self._facts, value, self._second, request_ids),))
        else:
            self.write((self.line(value, now),), (self._fields,))

    def line(self, value: float, now: float) -> str:
        """The log line of an observation that belongs to no request; `fields` has its parts."""
        if not self._until - 1.0 <= now < self._until:
            self._renew(now)
        if value != self._value or not self._line:
            self._value = value
            # `java_double` of what most values are, without its call.
            text = repr(value) if 1e-3 <= value < 1e7 else java_double(value)
            self._line = f"{self._prefix}{text}{self._suffix}{self._end}"
            self._fields = (*self._facts, value, self._second)
        return self._line

    @property
    def fields(self) -> Sequence[object]:
        """What the last `line` is made of."""
        return self._fields

    def _renew(self, now: float) -> None:
        if not self._until - 1.0 <= now < self._until:
            self._second = second = int(now)
            self._until = second + 1.0
            self._end = f",timestamp:{second}"
            self._line = ""


class Bundle:
    """Series that are always observed together: their lines are written in one call.

    Args:
        series: None where metrics.yaml lacks one; its values are dropped.
    """

    __slots__ = ("_clock", "_plain", "_shown", "_write")

    def __init__(self, series: Sequence[Series | None], clock: Callable[[], float]) -> None:
        self._clock = clock
        there = [(at, one) for at, one in enumerate(series) if one is not None]
        self._shown = [(at, one.child.update) for at, one in there if one.child is not None]
        self._plain = [(at, one) for at, one in there if one.write is not None]
        self._write = next((one.write for _, one in self._plain), None)

    def update(self, *values: float) -> None:
        """Record an observation of each."""
        for at, update in self._shown:
            update(values[at])
        if self._write is None:
            return
        now = self._clock()
        lines = [one.line(values[at], now) for at, one in self._plain]
        self._write(lines, [one.fields for _, one in self._plain])
