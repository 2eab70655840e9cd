"""Throughput and latency over the load, as a picture: SVG written by hand, PNG with matplotlib."""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.util import find_spec
from pathlib import Path

from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.report import Result, axis

_WIDTH, _HEIGHT = 420, 300  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 44, 48
_STYLE = (
    "text{font:12px sans-serif;fill:#333}.t{font-size:14px}.g{stroke:#ddd}"
    "polyline{fill:none;stroke-width:2}"
)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a panel; None where a level has no value."""

    name: str
    colour: str
    values: Sequence[float | None]


def check(path: Path) -> None:
    """Refuse what `write` can't write, before anything is measured.

    Raises:
        BenchError: another ending, or matplotlib is missing.
    """
    if path.suffix not in (".svg", ".png"):
        raise BenchError(f"--plot {path}: the name must end in .svg or .png")
    if path.suffix == ".png" and find_spec("matplotlib") is None:
        raise BenchError(
            f"--plot {path}: PNG needs matplotlib, which is not installed; name it .svg, or run "
            "`pip install matplotlib`"
        )


def write(path: Path, title: str, results: Sequence[Result]) -> None:
    """Write the picture.

    Raises:
        OSError: it can't be written.
    """
    if path.suffix == ".png":
        _png(path, title, results)
    else:
        path.write_text(svg(title, results), encoding="utf-8")


def svg(title: str, results: Sequence[Result]) -> str:
    """Two panels side by side: requests/s, and p50 and p99 in milliseconds."""
    width, height = 2 * _WIDTH, _HEIGHT + 24
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text class="t" x="{width // 2}" y="20" text-anchor="middle">{escape(title)}</text>',
    ]
    loads = [one.load for one in results]
    for index, (name, lines) in enumerate(_panels(results)):
        parts.append(f'<g transform="translate({index * _WIDTH} 24)">')
        parts += _panel(name, axis(results[0].level), loads, lines)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panels(results: Sequence[Result]) -> list[tuple[str, list[Line]]]:
    rates = [one.tally.rate for one in results]
    p50, p99 = ([one.percentile(percent) for one in results] for percent in (50, 99))
    return [
        ("requests/s", [Line("requests/s", "#1f77b4", rates)]),
        ("latency in ms", [Line("p50", "#2ca02c", p50), Line("p99", "#d62728", p99)]),
    ]


def _panel(name: str, below: str, loads: Sequence[float], lines: Sequence[Line]) -> list[str]:
    marks = ticks(max((v for line in lines for v in line.values if v is not None), default=0.0))
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    step = (right - _LEFT) / len(loads)  # levels stand side by side: they mostly double
    xs = [_LEFT + step * (index + 0.5) for index in range(len(loads))]
    parts = [f'<text x="{_LEFT}" y="{_TOP - 16}">{name}</text>']
    for tick in marks:
        y = _y(tick, marks[-1])
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    every = math.ceil(len(loads) / 10)
    for x, load in list(zip(xs, loads, strict=True))[::every]:
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{load:,.7g}</text>')
    middle = (_LEFT + right) // 2
    parts.append(f'<text x="{middle}" y="{bottom + 38}" text-anchor="middle">{below}</text>')
    for index, line in enumerate(lines):
        parts += _line(line, xs, marks[-1])
        if len(lines) > 1:
            x = right - 44 * (len(lines) - index) + 8
            parts.append(
                f'<text x="{x}" y="{_TOP - 16}" style="fill:{line.colour}">{line.name}</text>'
            )
    return parts


def _line(line: Line, xs: Sequence[float], top: float) -> list[str]:
    points = [
        (x, _y(value, top)) for x, value in zip(xs, line.values, strict=True) if value is not None
    ]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [
        f'<polyline stroke="{line.colour}" points="{path}"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{line.colour}"/>' for x, y in points),
    ]


def _y(value: float, top: float) -> float:
    bottom = _HEIGHT - _BOTTOM
    return bottom - value / top * (bottom - _TOP)


def ticks(greatest: float) -> list[float]:
    """From 0 to no less than ``greatest`` in three to six round steps."""
    if greatest <= 0:
        return [0.0, 1.0]
    unit = 10.0 ** math.floor(math.log10(greatest / 3))
    step = next(unit * times for times in (1, 2, 5, 10) if greatest / (unit * times) <= 6)
    return [step * index for index in range(math.ceil(greatest / step - 1e-9) + 1)]


def _png(path: Path, title: str, results: Sequence[Result]) -> None:
    figures = importlib.import_module("matplotlib.figure")
    figure = figures.Figure(figsize=(8.4, 3.6), layout="constrained")
    figure.suptitle(title)
    places = range(len(results))
    for panel, (name, lines) in zip(figure.subplots(1, 2), _panels(results), strict=True):
        for line in lines:
            values = [math.nan if value is None else value for value in line.values]
            panel.plot(places, values, marker="o", color=line.colour, label=line.name)
        panel.set_title(name)
        panel.set_xlabel(axis(results[0].level))
        panel.set_xticks(places, [f"{one.load:,.7g}" for one in results])
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.4)
        if len(lines) > 1:
            panel.legend()
    figure.savefig(path)
