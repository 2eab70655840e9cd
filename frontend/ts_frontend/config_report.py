"""What the settings come to and where each was set; `cli` prints it for ``config --show``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from ts_frontend.config import Address, Config, Loaded
from ts_frontend.keys import key_table
from ts_frontend.model_snapshot import ModelSnapshot
from ts_frontend.sources import Origin
from ts_frontend.urls import shown

MASK = "********"
_NO_SETTINGS = ("restored_from", "written", "warnings")


def as_text(loaded: Loaded) -> str:
    """One aligned line for each setting: name, value as a file would have it, origin."""
    rows = [(name, _text(value), _where(origin)) for name, value, origin in _settings(loaded)]
    wide = max(len(name) for name, _, _ in rows)
    # One long value shall not push every origin out of sight.
    middle = min(40, max(len(value) for _, value, _ in rows))
    return "\n".join(f"{name:{wide}}  {value:{middle}}  {where}" for name, value, where in rows)


def as_json(loaded: Loaded) -> str:
    """``{"settings": {name: {"value", "origin", "name", "line"}}, "warnings": [...]}``.

    ``origin`` is ``variable``, ``flag``, ``file`` or ``default``; ``name`` is the variable, the
    flag or the path, and ``line`` is there for files only.
    """
    settings = {
        name: {"value": json_value(value), **_facts(origin)}
        for name, value, origin in _settings(loaded)
    }
    return json.dumps({"settings": settings, "warnings": loaded.config.warnings}, indent=2)


def _settings(loaded: Loaded) -> Iterator[tuple[str, Any, Origin | None]]:
    """Every field with its value and origin, in the order of the key table, secrets masked and
    those in URLs left out."""
    secret = {key.name for key in key_table().values() if key.secret}
    for entry in fields(Config):
        if entry.name in _NO_SETTINGS:
            continue
        value = MASK if entry.name in secret else getattr(loaded.config, entry.name)
        if entry.name == "load_models" and value:
            value = ",".join(map(shown, value.split(",")))
        yield entry.name, value, loaded.origins.get(entry.name)


def _text(value: Any) -> str:
    """A value as it is written into a file, on one line."""
    plain = json_value(value)
    if plain is None or plain == {}:
        return "unset"
    if isinstance(plain, list):
        return ",".join(plain)
    if isinstance(plain, float):
        return f"{plain:g}"
    text = plain if isinstance(plain, str) else json.dumps(plain)
    return " ".join(text.split())


def json_value(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Address | Path):
        return str(value)
    if isinstance(value, ModelSnapshot):
        return value.plain()
    return list(value) if isinstance(value, tuple) else value


def _where(origin: Origin | None) -> str:
    if origin is None:
        return "default"
    return f"command line {origin}" if origin.kind == "flag" else str(origin)


def _facts(origin: Origin | None) -> dict[str, Any]:
    if origin is None:
        return {"origin": "default"}
    facts = {"origin": origin.kind, "name": origin.name}
    return facts if origin.line is None else {**facts, "line": origin.line}
