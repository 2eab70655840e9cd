"""What must hold: the project's own floors and aims, as ratios within one run, and whether they do.

`report` makes a table of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.rows import Key, Row, times_better

OURS = "torchserve-py"
Rows = Mapping[Key, Row]
Word = Literal["aim", "floor", "not met", "not measured"]


@dataclass(frozen=True, slots=True)
class Condition:
    """One figure with its floor and its aim; None where there is only one of them."""

    name: str  # "x TorchServe"
    value: Callable[[Rows], float | None]
    floor: float | None
    aim: float | None
    better: Literal["more", "less"] = "more"

    def word(self, rows: Rows) -> Word:
        """How far it holds."""
        value = self.value(rows)
        if value is None:
            return "not measured"
        if not self._holds(value, self.floor):
            return "not met"
        return "aim" if self._holds(value, self.aim) else "floor"

    def _holds(self, value: float, bound: float | None) -> bool:
        if bound is None:
            return True
        return value >= bound if self.better == "more" else value <= bound


@dataclass(frozen=True, slots=True)
class Promise:
    """A line of the table: all its conditions must hold."""

    workload: str
    conditions: tuple[Condition, ...]

    def word(self, rows: Rows) -> Word:
        """The worst of its conditions; one that is missed is so, whatever was not measured."""
        words = {condition.word(rows) for condition in self.conditions}
        order: list[Word] = ["not met", "not measured", "floor", "aim"]
        return next(word for word in order if word in words)


def by_key(rows: Sequence[Row]) -> Rows:
    """For looking them up."""
    return {row.key: row for row in rows}


def ratio(
    suite: str, workload: str, load: float | None, metric: str, other: str
) -> Callable[[Rows], float | None]:
    """How many times better ours is than ``other``."""

    def value(rows: Rows) -> float | None:
        ours = rows.get((suite, workload, load, OURS, metric))
        theirs = rows.get((suite, workload, load, other, metric))
        return times_better(ours, theirs) if ours and theirs else None

    return value


def of_ours(
    suite: str, workload: str, load: float | None, metric: str, figure: str = "", over: str = ""
) -> Callable[[Rows], float | None]:
    """Ours alone: the median, or a further figure of the row, divided by another one."""

    def value(rows: Rows) -> float | None:
        row = rows.get((suite, workload, load, OURS, metric))
        if row is None:
            return None
        if not figure:
            return row.median
        seen, below = row.figure(figure), row.figure(over) if over else 1.0
        return None if seen is None or not below else seen / below

    return value


def _against(
    suite: str,
    workload: str,
    load: float | None,
    metric: str,
    bounds: Mapping[str, tuple[float | None, float | None]],
) -> tuple[Condition, ...]:
    return tuple(
        Condition(f"x {server}", ratio(suite, workload, load, metric, server), floor, aim)
        for server, (floor, aim) in bounds.items()
    )


def _echo(
    workload: str, load: int, bounds: Mapping[str, tuple[float | None, float | None]]
) -> Promise:
    title = f"echo {workload}, {load} connection{'s' if load > 1 else ''}"
    return Promise(title, _against("echo", workload, load, "throughput", bounds))


def _calm(workload: str) -> Promise:
    """256 connections: no errors, and no long tail."""
    where = ("echo", workload, 256, "throughput")
    errors = Condition("errors", of_ours(*where, "errors"), 0, 0, "less")
    tail = Condition("p99 / mean", of_ours(*where, "p99 ms", "mean ms"), 4, 3, "less")
    return Promise(f"echo {workload}, 256 connections", (errors, tail))


def _goodput(workload: str) -> Iterator[Promise]:
    """Under a latency target in an open loop; `suites.openloop` names the contestants."""
    others = ("eager", "fixed delay", "tuned window")
    for load in (30, 70, 95):
        conditions = (
            Condition(  # 2 % is noise
                f"x {other}",
                ratio("openloop", workload, load, "goodput", f"{OURS}, {other}"),
                0.98,
                1.02,
            )
            for other in others
        )
        yield Promise(f"goodput, {workload}, {load} % of capacity", tuple(conditions))

    def of_peak(rows: Rows) -> float | None:
        loads = (30, 70, 95, 300)
        seen = {load: rows.get(("openloop", workload, load, OURS, "goodput")) for load in loads}
        medians = {load: row.median for load, row in seen.items() if row and row.median}
        return medians[300] / max(medians.values()) if 300 in medians else None

    whole = Condition("of the peak", of_peak, 0.9, 0.97)
    yield Promise(f"goodput, {workload}, 3 x capacity", (whole,))


def promises() -> list[Promise]:
    """All that must hold, in the order of the table."""
    batched = "batch 32 / 5 ms"
    four = "1 to 4 workers"
    return [
        _echo("batch 1", 1, {"torchserve": (2.5, None), "mosec": (0.75, 1), "litserve": (5, None)}),
        _echo("batch 1", 64, {"torchserve": (10, None), "mosec": (1.2, 2), "litserve": (10, None)}),
        _echo(batched, 1, {"torchserve": (15, 25), "mosec": (15, 25), "litserve": (15, 25)}),
        _echo(batched, 16, {"torchserve": (8, 9), "mosec": (6, 9), "litserve": (12, 9)}),
        _echo(batched, 64, {"torchserve": (4, None), "mosec": (0.6, 1), "litserve": (15, None)}),
        _calm("batch 1"),
        _calm(batched),
        Promise(
            "5 MB body, 4 connections, answer is its length",
            _against(
                "bodies",
                "5 MB body",
                4,
                "throughput",
                {"torchserve": (4, None), "aiohttp (bare)": (0.6, 0.8)},
            ),
        ),
        *_goodput("4 + 0.5 n ms, target 50 ms"),
        *_goodput("20 + 0.5 n ms, target 50 ms"),
        Promise(
            "ResNet-18, batch 8, 8 connections, 1 worker",
            _against(
                "resnet18",
                "batch 8, 1 worker",
                8,
                "throughput",
                {"torchserve": (1, 1.5), "torch loop (bare)": (0.95, None)},
            ),
        ),
        Promise(
            "ResNet-18, batch 8, 8 connections, 2 workers",
            _against("resnet18", "batch 8, 2 workers", 8, "throughput", {"torchserve": (1.5, 1.8)}),
        ),
        Promise(
            "1 -> 4 workers of a small torch model",
            _against("scaling", four, None, "time", {"torchserve": (10, 20)}),
        ),
        Promise(
            "memory per extra worker (PSS)",
            _against("scaling", four, None, "memory per extra worker", {"torchserve": (8, 14)}),
        ),
        Promise(
            "whole server with 4 workers, memory (PSS)",
            (
                *_against("scaling", four, None, "memory in all", {"torchserve": (2.5, 3.5)}),
                Condition(
                    "server alone, MB",
                    of_ours("scaling", four, None, "memory of the server process"),
                    60,
                    None,
                    "less",
                ),
            ),
        ),
        Promise(
            "start to listening",
            _against(
                "start",
                "echo, 1 worker",
                None,
                "listening",
                {"torchserve": (4, None), "mosec": (None, 1)},
            ),
        ),
        Promise(
            "500 MB of random weights archived",
            _against("archives", "500 MB", None, "archived", {"torchserve": (10, 15)}),
        ),
        Promise(
            "the same registered: the first time, and after a restart",
            (
                *_against("archives", "500 MB", None, "registered", {"torchserve": (4, None)}),
                Condition(
                    "x torchserve, after a restart",
                    ratio("archives", "500 MB", None, "registered after a restart", "torchserve"),
                    10,
                    None,
                ),
                Condition(
                    "s after a restart, less the worker's load",
                    of_ours("archives", "500 MB", None, "registered beyond the load"),
                    None,
                    0.3,
                    "less",
                ),
            ),
        ),
    ]
