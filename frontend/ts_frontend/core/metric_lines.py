"""Metrics that a handler writes as lines of text instead of recording them (reference §6.5).

TorchServe's workers told all their metrics so, and what runs beside a handler, or was written for
an older release, still does. Called by `events`.
"""

from __future__ import annotations

import re

from ts_worker.messages import Metric

# ``[METRICS]Name.Unit:value|#Dimension:label,...|#type:GAUGE|#hostname:h,seconds,request ids``
_START = ("[METRICS]", "INFO > [METRICS]")
_LINE = re.compile(
    r"(?:INFO > )?\[METRICS\]\s*(?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[-+.\deE]+)"
    r"\|#(?P<dimensions>[^|]*)(?:\|#type:(?P<type>\w+))?"
    r"\|#hostname:[^,]*,(?:timestamp:)?\d+(?:,(?P<ids>.*))?"
)


def metric_of(line: str) -> Metric | None:
    """Return what a line observes; None for one that is no metric line, or not a whole one."""
    if not line.startswith(_START):
        return None
    found = _LINE.fullmatch(line.rstrip())
    if found is None:
        return None
    try:
        value = float(found["value"])
    except ValueError:
        return None
    pairs = [pair.partition(":") for pair in found["dimensions"].split(",") if pair]
    return Metric(
        found["name"].strip(),
        found["unit"].strip(),
        (found["type"] or "gauge").lower(),
        value,
        tuple((name, label) for name, _, label in pairs),
        found["ids"] or "",
    )
