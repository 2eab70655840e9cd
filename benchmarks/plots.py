"""Throughput, p50 and p99 over the load as SVG, one picture for each workload of several loads."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from html import escape

from benchmarks.rows import Row

_WIDTH, _HEIGHT = 380, 300  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 30, 44
_COLOURS = ("#d62728", "#1f77b4", "#ff7f0e", "#2ca02c", "#7f7f7f", "#9467bd", "#8c564b", "#17becf")
_STYLE = "text{font:12px sans-serif;fill:#333}.g{stroke:#ddd}polyline{fill:none;stroke-width:2}"
_PANELS: tuple[tuple[str, Callable[[Row], float | None]], ...] = (
    ("requests/s", lambda row: row.median),
    ("p50 in ms", lambda row: row.figure("p50 ms")),
    ("p99 in ms", lambda row: row.figure("p99 ms")),
)


def pictures(rows: Sequence[Row]) -> dict[str, str]:
    """By file name without its ending."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.metric == "throughput" and row.load is not None and row.median is not None:
            groups.setdefault((row.suite, row.workload), []).append(row)
    return {
        re.sub(r"\W+", "-", f"{suite}-{workload}"): svg(f"{suite}, {workload}", group)
        for (suite, workload), group in groups.items()
        if len({row.load for row in group}) > 1
    }


def svg(title: str, rows: Sequence[Row]) -> str:
    """Three panels side by side with logarithmic axes, a line for each server."""
    servers = list(dict.fromkeys(row.server for row in rows))
    width, height = len(_PANELS) * _WIDTH, _HEIGHT + 48
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{width // 2}" y="18" text-anchor="middle">{escape(title)}</text>',
    ]
    for index, server in enumerate(servers):
        colour = _COLOURS[index % len(_COLOURS)]
        x = _LEFT + index * (width - _LEFT) // max(len(servers), 6)
        parts.append(f'<text x="{x}" y="38" style="fill:{colour}">{escape(server)}</text>')
    for index, (name, value) in enumerate(_PANELS):
        parts.append(f'<g transform="translate({index * _WIDTH} 48)">')
        parts += _panel(name, rows, servers, value)
        parts.append("</g>")
    return "\n".join([*parts, "</svg>", ""])


def _panel(
    name: str, rows: Sequence[Row], servers: Sequence[str], value: Callable[[Row], float | None]
) -> list[str]:
    values = [seen for row in rows if (seen := value(row))]
    if not values:
        return []
    low, high = 10.0 ** math.floor(math.log10(min(values))), max(values)
    loads = sorted({row.load for row in rows if row.load is not None})
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    step = (right - _LEFT) / len(loads)  # loads stand side by side: they mostly multiply
    xs = {load: _LEFT + step * (index + 0.5) for index, load in enumerate(loads)}

    def height(one: float) -> float:
        share = math.log(one / low) / math.log(max(high / low, 1.0001))
        return bottom - share * (bottom - _TOP)

    parts = [f'<text x="{_LEFT}" y="{_TOP - 12}">{name}</text>']
    for tick in ticks(low, high):
        y = height(tick)
        parts.append(f'<line class="g" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:,.6g}</text>')
    for load, x in xs.items():
        parts.append(f'<text x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{load:g}</text>')
    middle = (_LEFT + right) // 2
    below = f'<text x="{middle}" y="{bottom + 36}" text-anchor="middle">{rows[0].load_unit}</text>'
    parts.append(below)
    for index, server in enumerate(servers):
        points = [
            (xs[row.load], height(seen))
            for row in sorted(rows, key=lambda row: row.load or 0.0)
            if row.server == server and row.load is not None and (seen := value(row))
        ]
        parts += _line(points, _COLOURS[index % len(_COLOURS)])
    return parts


def _line(points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [
        f'<polyline stroke="{colour}" points="{path}"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points),
    ]


def ticks(low: float, high: float) -> list[float]:
    """Round values from ``low`` (a power of ten) to ``high``: 1, 2, 5 of each power, or 1 alone."""
    powers = math.floor(math.log10(high / low)) + 1
    steps = (1, 2, 5) if powers <= 2 else (1,)
    every = [low * 10.0**power * step for power in range(powers + 1) for step in steps]
    return [one for one in every if one <= high * 1.0001]
