"""What has been measured, on disk: ``results.json`` is written whole after every single row.

`run` adds to it, `report` reads it; an interruption costs the measurement that was under way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rows import Row, from_json, merge, to_json


@dataclass(slots=True)
class SuiteResult:
    """One suite's rows, and whether it came to its end."""

    rows: list[Row] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0
    load_before: list[float] = field(default_factory=list)
    load_after: list[float] = field(default_factory=list)
    problem: str = ""


@dataclass(slots=True)
class Results:
    """All suites of one run."""

    machine: Mapping[str, Any]
    versions: dict[str, str]  # of the servers
    settings: dict[str, Any]  # quick or not, seconds, rounds
    suites: dict[str, SuiteResult] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Of all suites, samples of the same thing together."""
        return [row for suite in self.suites.values() for row in merge(suite.rows)]

    def write(self, path: Path) -> None:
        """Replace ``path`` in one step."""
        document = {
            "machine": dict(self.machine),
            "versions": self.versions,
            "settings": self.settings,
            "suites": {name: _suite_to_json(one) for name, one in self.suites.items()},
        }
        part = path.with_suffix(".part")
        part.write_text(json.dumps(document, indent=1) + "\n")
        part.replace(path)


def read(path: Path) -> Results | None:
    """What `Results.write` wrote there; None without such a file."""
    if not path.is_file():
        return None
    document = json.loads(path.read_text())
    suites = {name: _suite_from_json(one) for name, one in document["suites"].items()}
    return Results(document["machine"], document["versions"], document["settings"], suites)


def _suite_to_json(suite: SuiteResult) -> dict[str, Any]:
    return {
        "done": suite.done,
        "seconds": round(suite.seconds, 1),
        "load before": suite.load_before,
        "load after": suite.load_after,
        "problem": suite.problem,
        "rows": [to_json(row) for row in merge(suite.rows)],
    }


def _suite_from_json(values: Mapping[str, Any]) -> SuiteResult:
    return SuiteResult(
        rows=[from_json(row) for row in values["rows"]],
        done=values["done"],
        seconds=values["seconds"],
        load_before=values["load before"],
        load_after=values["load after"],
        problem=values["problem"],
    )
