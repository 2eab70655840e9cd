"""What a suite measures: one `Row` for each workload, server and metric, with all its samples.

Suites yield rows as they measure them, `run` merges those that belong together and keeps them as
JSON, `report` makes tables, verdicts and plots of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Any, Literal

Better = Literal["more", "less"]
Key = tuple[str, str, float | None, str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """One thing measured of one server, once or several times.

    A row without samples says in ``problem`` why the server could not do the work.
    """

    suite: str
    workload: str
    server: str
    metric: str  # "throughput", "first prediction", ...
    unit: str  # "requests/s", "s", "MB", ...
    better: Better
    samples: tuple[float, ...]
    settings: str  # how this server was set up for the workload, in words
    load: float | None = None  # how much was asked of it: the x of plots
    load_unit: str = "connections"
    # What else was seen, one value a sample: "p50 ms", "p99 ms", "mean ms", "errors", "client cpu".
    figures: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    problem: str = ""

    @property
    def key(self) -> Key:
        """Rows with the same key are samples of the same thing."""
        return self.suite, self.workload, self.load, self.server, self.metric

    @property
    def title(self) -> str:
        """The workload with its load: "batch 1, 64 connections"."""
        return (
            self.workload
            if self.load is None
            else f"{self.workload}, {self.load:g} {self.load_unit}"
        )

    @property
    def median(self) -> float | None:
        """Of the samples; None where there are none."""
        return median(self.samples) if self.samples else None

    def figure(self, name: str) -> float | None:
        """The median of a further figure, but the sum of "errors"; None where it was not seen."""
        values = self.figures.get(name)
        if not values:
            return None
        return sum(values) if name == "errors" else median(values)


def failed(row: Row, problem: str) -> Row:
    """``row`` as what could not be measured, with the reason's last line or two."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", problem)  # without a terminal's colours
    lines = [line.strip() for line in plain.strip().splitlines() if line.strip()]
    return replace(row, samples=(), figures={}, problem=" | ".join(lines[-3:])[-500:] or "failed")


def merge(rows: Iterable[Row]) -> list[Row]:
    """Rows of one key become one row, in the order in which keys first appear."""
    merged: dict[Key, Row] = {}
    for row in rows:
        before = merged.get(row.key)
        merged[row.key] = row if before is None else _joined(before, row)
    return list(merged.values())


def _joined(before: Row, row: Row) -> Row:
    names = [*before.figures, *(name for name in row.figures if name not in before.figures)]
    figures = {name: (*before.figures.get(name, ()), *row.figures.get(name, ())) for name in names}
    return replace(
        row,
        samples=(*before.samples, *row.samples),
        figures=figures,
        problem=before.problem or row.problem,
    )


def times_better(row: Row, other: Row) -> float | None:
    """How many times better the median of ``row`` is; above 1 is better whatever is measured."""
    ours, theirs = row.median, other.median
    if ours is None or theirs is None:
        return None
    above, below = (ours, theirs) if row.better == "more" else (theirs, ours)
    return above / below if below > 0 else None


def to_json(row: Row) -> dict[str, Any]:
    """``row`` as plain values, with its median for who reads the file by eye."""
    return {**asdict(row), "median": row.median}


def from_json(values: Mapping[str, Any]) -> Row:
    """What `to_json` has written."""
    fields = {name: value for name, value in values.items() if name != "median"}
    fields["samples"] = tuple(fields["samples"])
    fields["figures"] = {name: tuple(seen) for name, seen in fields["figures"].items()}
    return Row(**fields)
