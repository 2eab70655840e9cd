"""Metrics with fixed label values: their places in the registry and their lines in a metric log.

`recorder` makes them once per label set; the hot path then only calls `update`. What a line says is
written in the thread of the logs, from the values that were handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from ts_frontend.log_lines import Fields, Made, Source
from ts_frontend.log_text import one_line
from ts_frontend.metrics.family import Child
from ts_frontend.metrics.spec import MetricSpec
from ts_frontend.metrics.text import java_double

# Takes values, and who makes lines of them.
Write = Callable[[Made, Sequence[object]], None]


class MetricLog(Protocol):
    """The two metric logs; `ts_frontend.logs.Logs` has both methods, and ``METRIC_FIELDS``."""

    def ts_metrics(self, made: Made, values: Sequence[object], /) -> None: ...
    def model_metrics(self, made: Made, values: Sequence[object], /) -> None: ...


class Series:
    """One metric with its label values fixed.

    Attributes:
        child: its place in the registry; None where /metrics does not show it.
        write: takes its values for the log; None where it is not logged.
        prefix: of a log line, before the value; ``suffix`` stands behind it.
    """

    __slots__ = ("_facts", "_key", "_pair", "child", "prefix", "suffix", "write")

    def __init__(
        self, spec: MetricSpec, values: tuple[str, ...], child: Child | None, write: Write | None
    ) -> None:
        self.child = child
        self.write = write
        # The host's name is the last dimension and has its own place in the line (§6.5).
        labels = dict(zip(spec.dimensions[:-1], values[:-1], strict=True))
        dimensions = ",".join(f"{name}:{value}" for name, value in labels.items())
        self._facts = (spec.name, spec.unit, spec.kind, labels, values[-1])
        self.prefix = one_line(f"{spec.name}.{spec.unit}:")
        self.suffix = one_line(f"|#{dimensions}|#hostname:{values[-1]}")
        # Counts, and times in whole milliseconds, repeat themselves: so do their lines.
        self._key: tuple[str, Sequence[object]] = ("", ())
        self._pair = ("", "")

    def update(self, value: float, request_ids: str = "") -> None:
        """Record one observation; a counter's log line carries the increment."""
        if self.child is not None:
            self.child.update(value)
        if self.write is not None:
            self.write(self, (value, request_ids))

    def text(
        self, stamp: str, millisecond: int, source: Source, values: Sequence[object]
    ) -> tuple[str, str]:
        key = (stamp, values)
        if key != self._key:
            self._key = key
            line = self._line(millisecond // 1000, *values)
            self._pair = (
                f"{stamp}{source.brief}{line}\n",
                f"{stamp}{source.head}{line}\n" if source.everywhere else "",
            )
        return self._pair

    def parts(self, second: int, values: Sequence[object]) -> Iterator[tuple[str, Fields]]:
        value, ids = values
        facts = (*self._facts, value, second)
        yield self._line(second, value, ids), (*facts, ids) if ids else facts

    def _line(self, second: int, value: object, request_ids: object = "") -> str:
        ids = f",requestID:{one_line(str(request_ids))}" if request_ids else ""
        return f"{self.prefix}{_number(value)}{self.suffix}{ids},timestamp:{second}"


class Bundle:
    """Series that are always observed together, and logged as one.

    Args:
        series: None where metrics.yaml lacks one; its values are dropped.
    """

    __slots__ = ("_logged", "_own", "_root", "_second", "_shown", "_write")

    def __init__(self, series: Sequence[Series | None]) -> None:
        there = [(at, one) for at, one in enumerate(series) if one is not None]
        self._shown = [(at, one.child.update) for at, one in there if one.child is not None]
        self._logged = [(at, one) for at, one in there if one.write is not None]
        self._write = next((one.write for _, one in self._logged), None)
        # The lines of a second, with places for time stamps and values.
        self._second = -1
        self._own = self._root = ""

    def update(self, *values: float) -> None:
        """Record an observation of each."""
        for at, update in self._shown:
            update(values[at])
        if self._write is not None:
            self._write(self, values)

    def text(
        self, stamp: str, millisecond: int, source: Source, values: Sequence[object]
    ) -> tuple[str, str]:
        second = millisecond // 1000
        if second != self._second:
            self._second = second
            self._own = self._form(source.brief, second)
            self._root = self._form(source.head, second)
        filling: list[str] = []
        for at, _ in self._logged:
            filling += (stamp, _number(values[at]))
        filled = tuple(filling)
        return self._own % filled, self._root % filled if source.everywhere else ""

    def parts(self, second: int, values: Sequence[object]) -> Iterator[tuple[str, Fields]]:
        for at, one in self._logged:
            yield from one.parts(second, (values[at], ""))

    def _form(self, head: str, second: int) -> str:
        lines = [
            "%s" + f"{head}{one.prefix}\0{one.suffix},timestamp:{second}\n".replace("%", "%%")
            for _, one in self._logged
        ]
        return "".join(lines).replace("\0", "%s")


def _number(value: Any) -> str:
    # `java_double` of what most values are, without its call.
    return repr(value) if 1e-3 <= value < 1e7 else java_double(value)
