"""Counters, gauges and histograms with labels, in memory; `recorder` owns them.

One event loop updates and reads them, so there is no lock; a child is looked up once and kept.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet

from ts_frontend.metrics.spec import MetricSpec
from ts_frontend.metrics.text import help_lines, label_block, sample_value

# simpleclient's defaults, which dashboards made for TorchServe know.
DEFAULT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Counter:
    """A sum that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def update(self, value: float) -> None:
        """Add ``value``; a negative one is ignored, as a counter never falls."""
        if value >= 0:
            self.value += value


class Gauge:
    """The last value seen."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def update(self, value: float) -> None:
        """Replace the value."""
        self.value = value


class Histogram:
    """Counts of observations by upper bound, with their number and sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float] = DEFAULT_BUCKETS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def update(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


Child = Counter | Gauge | Histogram
_MAKERS: dict[str, Callable[[], Child]] = {
    "counter": Counter,
    "gauge": Gauge,
    "histogram": Histogram,
}


class Family:
    """All series of one metric, by their label values."""

    __slots__ = ("_buckets", "_children", "spec")

    def __init__(self, spec: MetricSpec, buckets: Sequence[float] | None = None) -> None:
        self.spec = spec
        self._buckets = buckets
        self._children: dict[tuple[str, ...], Child] = {}

    def child(self, values: tuple[str, ...]) -> Child:
        """Return the series with these label values, one for each dimension, new or known."""
        child = self._children.get(values)
        if child is None:
            buckets = self._buckets
            child = Histogram(buckets) if buckets else _MAKERS[self.spec.kind]()
            self._children[values] = child
        return child

    def remove(self, values: tuple[str, ...]) -> None:
        """Forget a series; unknown label values are no error."""
        self._children.pop(values, None)

    def clear(self) -> None:
        """Forget all series."""
        self._children.clear()

    def text(self, names: AbstractSet[str]) -> str:
        """Return the family in Prometheus text, or "" when ``names`` selects none of its samples.

        ``names`` holds exact sample names; an empty one selects everything, and then a family
        without any series still shows its HELP and TYPE.
        """
        lines = [
            f"{name}{labels} {sample_value(value)}\n"
            for name, labels, value in self._samples()
            if not names or name in names
        ]
        if names and not lines:
            return ""
        return help_lines(self.spec.name, self.spec.kind, self.spec.unit) + "".join(lines)

    def _samples(self) -> Iterator[tuple[str, str, float]]:
        name, dimensions = self.spec.name, self.spec.dimensions
        for values, child in self._children.items():
            labels = label_block(dimensions, values)
            if not isinstance(child, Histogram):
                yield name, labels, child.value
                continue
            total = 0
            bounds = (*child.bounds, float("inf"))
            for bound, count in zip(bounds, child.counts, strict=True):
                total += count
                bucket = label_block((*dimensions, "le"), (*values, sample_value(bound)))
                yield f"{name}_bucket", bucket, total
            yield f"{name}_count", labels, total
            yield f"{name}_sum", labels, child.sum


def presentable(spec: MetricSpec) -> bool:
    """Tell whether Prometheus takes the metric's name and labels; handlers may choose any."""
    return bool(_NAME.fullmatch(spec.name)) and all(
        _LABEL.fullmatch(dimension) for dimension in spec.dimensions
    )
