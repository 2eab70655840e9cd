"""What was measured, as a table for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ts_frontend.bench.plan import Level
from ts_frontend.bench.tally import Tally

PERCENTILES = (50, 90, 99)
# Of a core, from where on the client may be what limits; one process has no more than one.
_BUSY = 0.9
_STARVED = 0.1
_COLUMNS = (
    ("requests/s", 11),
    ("mean ms", 9),
    ("p50", 8),
    ("p90", 8),
    ("p99", 8),
    ("max", 8),
    ("errors", 8),
    ("sent/s", 9),
    ("received/s", 11),
    ("client", 7),
)
_BAR = 40
_EIGHTHS = " \u258f\u258e\u258d\u258c\u258b\u258a\u2589"


@dataclass(frozen=True, slots=True)
class Result:
    """A level and what it gave."""

    level: Level
    tally: Tally

    @property
    def load(self) -> float:
        """What the levels differ in: requests offered a second, or connections."""
        return self.level.connections if self.level.rate is None else self.level.rate

    def percentile(self, percent: float) -> float | None:
        """Of the latencies, in milliseconds."""
        return _ms(self.tally.latencies.percentile(percent))


def axis(level: Level) -> str:
    """The name of `Result.load`."""
    return "connections" if level.rate is None else "offered/s"


def head(level: Level) -> str:
    """The table's first line."""
    return f"{axis(level):>11}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS)


def row(result: Result) -> str:
    """A level's line of the table."""
    tally = result.tally
    latencies = tally.latencies
    greatest = latencies.greatest if latencies.count else None
    times = [_ms(latencies.mean()), *map(result.percentile, PERCENTILES), _ms(greatest)]
    seconds = tally.seconds or 1.0
    cells = [
        _number(tally.rate),
        *("-" if one is None else _number(one) for one in times),
        f"{tally.errors.total():,}",
        _size(tally.sent / seconds),
        _size(tally.received / seconds),
        f"{sum(tally.busy):.0%}",
    ]
    widths = [width for _, width in _COLUMNS]
    texts = [f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)]
    return f"{result.load:>11,.7g}" + "".join(texts)


def notes(result: Result) -> Iterator[str]:
    """What to know about a level's figures."""
    tally, level = result.tally, result.level
    for kind, count in tally.errors.most_common():
        sample = tally.samples.get(kind)
        yield f"error: {count:,} x {kind}" + (f": {sample}" if sample else "")
    yield from _limits(tally)
    if not tally.latencies.count and not tally.interrupted:
        yield f"no good answer in {tally.seconds:.3g} s: give more --seconds, or see the errors"
    if level.rate is not None and level.requests is None and tally.seconds:
        behind = tally.oldest > 0.1 * tally.seconds
        if behind or tally.waiting > max(0.1 * level.rate * tally.seconds, level.connections):
            yield (
                f"the server did not keep up: {tally.waiting:,} requests had no answer in the end, "
                f"the oldest for {tally.oldest:.3g} s, so latencies only say how long this went on"
            )
    elif tally.waiting and tally.oldest * 1e9 > 2 * tally.latencies.greatest:
        yield (
            f"{tally.waiting:,} requests had no answer in the end, the oldest for "
            f"{tally.oldest:.3g} s: longer than any that is counted"
        )


def _limits(tally: Tally) -> Iterator[str]:
    """Where the client is what limits, or gets no processor to measure with."""
    busy, starved = max(tally.busy, default=0.0), max(tally.starved, default=0.0)
    if busy >= _BUSY:
        yield (
            f"the client was busy for {busy:.0%} of the time and may be what limits: give more "
            f"--processes than {len(tally.busy)}"
        )
    elif starved >= _STARVED:
        yield (
            f"the client had to wait for a free core for {starved:.0%} of the time, and saw its "
            "answers late: does the server share its cores?"
        )


def bars(results: Sequence[Result], *, plain: bool) -> Iterator[str]:
    """Requests/s and p99 of each level as bars.

    Args:
        plain: in ASCII.
    """
    for name, values in (
        ("requests/s", [one.tally.rate for one in results]),
        ("p99 ms", [one.percentile(99) or 0.0 for one in results]),
    ):
        top = max(values, default=0.0)
        yield f"{axis(results[0].level):>11}  {name}"
        for result, value in zip(results, values, strict=True):
            bar = _bar(value / top if top else 0.0, plain=plain)
            yield f"{result.load:>11,.7g}  {bar} {_number(value)}"


def as_json(result: Result) -> dict[str, Any]:
    """A level for --json; latencies are in milliseconds."""
    level, tally = result.level, result.tally
    latencies = tally.latencies
    counted = latencies.count > 0
    return {
        "connections": level.connections,
        "offered_per_second": level.rate,
        "seconds": tally.seconds,
        "requests": latencies.count,
        "requests_per_second": tally.rate,
        "latency_ms": {
            "mean": _ms(latencies.mean()),
            "min": _ms(latencies.least if counted else None),
            **{f"p{percent}": result.percentile(percent) for percent in (*PERCENTILES, 99.9)},
            "max": _ms(latencies.greatest if counted else None),
        },
        "errors": dict(tally.errors),
        "error_samples": {kind: text for kind, text in tally.samples.items() if text},
        "bytes_sent": tally.sent,
        "bytes_received": tally.received,
        "client_busy": tally.busy,
        "client_starved": tally.starved,
        "unanswered": tally.waiting,
        "oldest_unanswered_seconds": tally.oldest,
        "interrupted": tally.interrupted,
        "notes": list(notes(result)),
    }


def _ms(nanoseconds: float | None) -> float | None:
    return None if nanoseconds is None else nanoseconds / 1e6


def _number(value: float) -> str:
    """Three digits at least, and all of those before the point."""
    if value >= 100 or value == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _size(value: float) -> str:
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _bar(part: float, *, plain: bool) -> str:
    whole, eighths = divmod(round(part * _BAR * 8), 8)
    if plain:
        return "#" * whole
    return "\u2588" * whole + _EIGHTHS[eighths].strip()
