"""Tables, verdicts and plots from what was measured; `run` writes them after every suite.

``python -m benchmarks.report [FOLDER]`` makes them again from a ``results.json``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path

from benchmarks import plots, results, verdicts
from benchmarks.results import Results
from benchmarks.rows import Row, times_better

FIGURES = ("p50 ms", "p99 ms", "errors", "server cpu ms/request")


def write(kept: Results, folder: Path) -> None:
    """``table.md`` and an SVG for each group of rows that has several loads."""
    (folder / "table.md").write_text(table(kept) + "\n")
    for name, picture in plots.pictures(kept.rows()).items():
        (folder / f"{name}.svg").write_text(picture)


def table(kept: Results) -> str:
    """All of it as Markdown."""
    rows = kept.rows()
    parts = ["# Benchmark", _head(kept), "## Must hold", must_hold(rows)]
    for suite, result in kept.suites.items():
        parts.append(f"## {suite}")
        if result.problem:
            parts.append(f"Left out: {result.problem}")
        mine = [row for row in rows if row.suite == suite]
        if mine:
            parts.append(suite_table(mine))
        if mine and not result.done:
            parts.append("Interrupted before its end.")
    return "\n\n".join(parts)


def _head(kept: Results) -> str:
    machine = kept.machine
    packages = ", ".join(f"{name} {found}" for name, found in machine["packages"].items())
    servers = ", ".join(f"{name} {found}" for name, found in kept.versions.items())
    lines = [
        f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory GB']} GB, "
        f"{machine['system']}",
        f"- {servers}; Python {machine['python']}, {machine['java']}; {packages}",
        f"- {_settings(kept)}",
    ]
    client = _client(kept.rows())
    return "\n".join([*lines, f"- {client}"] if client else lines)


def _settings(kept: Results) -> str:
    loads = [one.load_before[0] for one in kept.suites.values() if one.load_before]
    loads += [one.load_after[0] for one in kept.suites.values() if one.load_after]
    spent = sum(one.seconds for one in kept.suites.values()) / 60
    busy = f", load of the machine {min(loads)} to {max(loads)}" if loads else ""
    quick = "quick run, " if kept.settings["quick"] else ""
    return (
        f"{quick}{kept.settings['seconds']:g} s a measurement, at most {kept.settings['rounds']} "
        f"rounds, servers in turns, {spent:.0f} minutes in all{busy}; all figures are medians"
    )


def _client(rows: Sequence[Row]) -> str:
    """What shows that the load generator was not the limit."""
    driven = [row for row in rows if row.metric == "throughput" and row.figure("client cores")]
    if not driven:
        return ""
    busiest = max(driven, key=lambda row: row.figure("client cores") or 0.0)
    fastest = max(driven, key=lambda row: row.median or 0.0)
    return (
        f"wrk has one thread and was never busier than {busiest.figure('client cores'):.2f} of a "
        f"core ({busiest.server}, {busiest.suite} {busiest.title}); the fastest server that it "
        f"drove gave {fastest.median:,.0f} requests/s "
        f"({fastest.server}, {fastest.suite} {fastest.title})"
    )


def must_hold(rows: Sequence[Row]) -> str:
    """The project's promises, each with what was measured."""
    found = verdicts.by_key(rows)
    lines = ["| workload | floor | aim | measured | met |", "| --- | --- | --- | --- | --- |"]
    for promise in verdicts.promises():
        conditions = promise.conditions
        floors = [f"{_bound(c, c.floor)}" for c in conditions if c.floor is not None]
        aims = [f"{_bound(c, c.aim)}" for c in conditions if c.aim is not None]
        values = [(c.name, c.value(found)) for c in conditions]
        measured = [f"{value:.2f} {name}" for name, value in values if value is not None]
        cells = [", ".join(cell) or "-" for cell in (floors, aims, measured)]
        lines.append(f"| {promise.workload} | {' | '.join(cells)} | {promise.word(found)} |")
    return "\n".join(lines)


def _bound(condition: verdicts.Condition, bound: float | None) -> str:
    return f"{'' if condition.better == 'more' else '<= '}{bound:g} {condition.name}"


def suite_table(rows: Sequence[Row]) -> str:
    """One line a row, with how many times better ours is than that server."""
    lines = [
        "| workload | server | what | median | range | ours is | p50 ms | p99 ms | errors "
        "| CPU ms | settings |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    found = verdicts.by_key(rows)
    ordered = sorted(rows, key=_order(rows))
    for _, group in groupby(ordered, key=lambda row: (row.title, row.metric)):
        lines += [_cells(row, found) for row in group]
    return "\n".join(lines)


def _order(rows: Sequence[Row]) -> Callable[[Row], tuple[int, int]]:
    """Rows of one workload and metric stand together, servers in the order in which they came."""
    titles = list(dict.fromkeys((row.title, row.metric) for row in rows))
    servers = list(dict.fromkeys(row.server for row in rows))
    return lambda row: (titles.index((row.title, row.metric)), servers.index(row.server))


def _cells(row: Row, found: verdicts.Rows) -> str:
    ours = found.get((row.suite, row.workload, row.load, verdicts.OURS, row.metric))
    times = None if ours is None or row.server == verdicts.OURS else times_better(ours, row)
    if row.median is None:
        value, spread = f"failed: {row.problem}".replace("|", "/"), "-"
    else:
        value = f"{_number(row.median)} {row.unit}"
        spread = f"{_number(min(row.samples))} to {_number(max(row.samples))}"
    figures = [row.figure(name) for name in FIGURES]
    shown = ["-" if one is None else _number(one) for one in figures]
    cells = [row.title, row.server, row.metric, value, spread]
    cells += ["-" if times is None else f"{times:.2f} x", *shown, row.settings]
    return f"| {' | '.join(cells)} |"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    where = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent / "results")
    there = results.read(where / "results.json")
    if there is None:
        sys.exit(f"there is no results.json in {where}. Cure: make bench")
    write(there, where)
    print(table(there))
