"""Which metrics exist: reads metrics.yaml (TorchServe's format, reference §6.3).

`server` loads it once and hands the result to `recorder`; workers read the same file themselves.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

log = logging.getLogger(__name__)

Kind = Literal["counter", "gauge", "histogram"]
KINDS: tuple[Kind, ...] = ("counter", "gauge", "histogram")


class SpecError(Exception):
    """A metrics.yaml that can't be used; the message names the file and the entry."""


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. ``dimensions`` are the label names, the host's name last."""

    name: str
    unit: str
    kind: Kind
    dimensions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Spec:
    """All metrics of a file: the server's own and the ones handlers report."""

    ts: tuple[MetricSpec, ...] = ()
    model: tuple[MetricSpec, ...] = ()


def default_path() -> Path | None:
    """Return the metrics.yaml packaged with `ts`, found without importing `ts` or torch."""
    found = importlib.util.find_spec("ts")
    if found is None:
        return None
    for folder in found.submodule_search_locations or ():
        path = Path(folder, "configs", "metrics.yaml")
        if path.is_file():
            return path
    return None


def load_spec(path: Path | None) -> Spec:
    """Read a metrics.yaml; one that can't be used is logged and means no metrics at all.

    TorchServe starts without metrics too when its file is bad (§6.2).
    """
    if path is None:
        log.error("No metrics.yaml was found, so there will be no metrics; set metrics_config.")
        return Spec()
    try:
        return parse_spec(path)
    except SpecError as error:
        log.error("%s There will be no metrics until it is corrected.", error)
        return Spec()


def parse_spec(path: Path) -> Spec:
    """Read a metrics.yaml.

    Raises:
        SpecError: the file can't be read, isn't YAML, or has an entry of the wrong shape.
    """
    try:
        with path.open(encoding="utf-8") as stream:
            # libyaml, where there is one: this is a tenth of the time to start else.
            data = yaml.load(stream, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except OSError as error:
        raise SpecError(f"Cannot read {path}: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        text = " ".join(str(error).split())
        raise SpecError(f"{path} is not valid YAML: {text}.") from error
    if not isinstance(data, dict):
        raise SpecError(f"{path} must hold a mapping with ts_metrics and model_metrics.")
    model = tuple(_section(data, "model_metrics", path, suffix=("Hostname",)))
    return Spec(tuple(_section(data, "ts_metrics", path)), model)


def _section(
    data: dict[object, object], key: str, path: Path, suffix: tuple[str, ...] = ()
) -> Iterator[MetricSpec]:
    section = data.get(key) or {}
    if not isinstance(section, dict):
        raise SpecError(f"{path}: {key} must be a mapping of {', '.join(KINDS)}.")
    for kind in section:
        if kind not in KINDS:
            raise SpecError(f"{path}: {key} has unknown type {kind!r}; use {', '.join(KINDS)}.")
    for kind in KINDS:
        entries = section.get(kind) or []
        if not isinstance(entries, list):
            raise SpecError(f"{path}: {key}.{kind} must be a list.")
        for entry in entries:
            yield _metric(entry, kind, f"{path}: {key}.{kind}", suffix)


def _metric(entry: object, kind: Kind, place: str, suffix: tuple[str, ...]) -> MetricSpec:
    if not isinstance(entry, dict):
        raise SpecError(f"{place}: each entry needs name, unit and dimensions, got {entry!r}.")
    name, unit, dimensions = entry.get("name"), entry.get("unit"), entry.get("dimensions") or []
    if not isinstance(name, str) or not name:
        raise SpecError(f"{place}: an entry has no name.")
    if not isinstance(unit, str) or not unit:
        raise SpecError(f"{place}: {name} has no unit.")
    if not isinstance(dimensions, list) or not all(isinstance(d, str) for d in dimensions):
        raise SpecError(f"{place}: dimensions of {name} must be a list of names.")
    return MetricSpec(name, unit, kind, (*dimensions, *suffix))
