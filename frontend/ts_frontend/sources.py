"""What the user wrote, source by source, and where: file, command line, environment.

`config` calls the three in this order, so that a later one overwrites an earlier one. What is left
in a `Draft` at the end is both what counts and where it came from; nothing else knows the rules.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from ts_frontend import properties
from ts_frontend.keys import INTERNAL, Key, key_table
from ts_frontend.values import ConfigError

_PLACEHOLDER = re.compile(r"\$\$(\w+)\$\$")
_SWITCHES = {
    "disable_token_auth": "disable_token_authorization",
    "enable_model_api": "enable_model_api",
    "watch": "watch_models",
}
_FLAGS = {
    "model_store": "model_store",
    "workflow_store": "workflow_store",
    "cpp_log_config": "cpp_log_config",
    "plugins_path": "plugins_path",
}
# Fields of Config that are no keys of the file. An empty variable or flag counts as absent.
_PLACE_FLAGS = {
    "log_config": "log_config",
    "source": "ts_config",
    "snapshots": "no_config_snapshots",
}
_PLACE_VARIABLES = {
    "log_location": "LOG_LOCATION",
    "metrics_location": "METRICS_LOCATION",
    "temp_dir": "TEMP",
    "source": "TS_CONFIG_FILE",
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the user wrote a setting; as text, what messages call it.

    Args:
        kind: the kind of source.
        name: the path, the flag with its dashes, or the variable.
        line: in a file, counted from 1.
    """

    kind: Literal["file", "flag", "variable"]
    name: str
    line: int | None = None

    def __str__(self) -> str:
        match self.kind:
            case "file":
                return f"{self.name}, line {self.line}"
            case "flag":
                return self.name
            case "variable":
                return f"environment variable {self.name}"


@dataclass(frozen=True, slots=True)
class Setting:
    """The text of one setting.

    Args:
        written: what stands in the file, where ``raw`` has variables replaced.
    """

    raw: str
    origin: Origin
    written: str | None = None


@dataclass(slots=True)
class Draft:
    """What has been found so far; later sources overwrite earlier ones."""

    environ: Mapping[str, str]
    cwd: Path
    table: Mapping[str, Key] = field(default_factory=key_table)
    settings: dict[str, Setting] = field(default_factory=dict)
    places: dict[str, Setting] = field(default_factory=dict)  # of fields that are no keys
    warnings: list[str] = field(default_factory=list)


def take_places(draft: Draft, options: Mapping[str, object]) -> None:
    """Take what only flags and variables can say: which file, where logs go, where to unpack."""
    for name, option in _PLACE_FLAGS.items():
        if options.get(option):
            draft.places[name] = Setting(str(options[option]), _flag(option))
    for name, variable in _PLACE_VARIABLES.items():
        if draft.environ.get(variable):
            origin = Origin("variable", variable)
            draft.places[name] = Setting(draft.environ[variable], origin)


def read_file(draft: Draft, source: Path) -> None:
    """Take the settings of a config.properties file.

    Raises:
        ConfigError: unreadable, malformed, or a ``$$NAME$$`` that the environment lacks.
    """
    try:
        text = properties.decode(source.read_bytes())
    except OSError as error:
        raise ConfigError(f"{source}: can't be read: {error.strerror}") from None
    read_text(draft, str(source), text)


def read_text(draft: Draft, source: str, text: str) -> None:
    """`read_file` of what has been read already; ``source`` is what messages call it."""
    try:
        entries = properties.parse(text)
    except properties.PropertiesError as error:
        raise ConfigError(f"{source}, line {error.line}: {error}") from None
    for entry in entries:
        origin = Origin("file", source, entry.line)
        if entry.key in draft.table:
            _set_from_file(draft, entry, origin)
        elif entry.key not in INTERNAL:
            draft.warnings.append(_unknown(origin, entry.key, draft.table))


def _set_from_file(draft: Draft, entry: properties.Property, origin: Origin) -> None:
    earlier = draft.settings.get(entry.key)
    if earlier is not None:
        draft.warnings.append(f"{origin}: {entry.key}: overrides {earlier.origin}")

    def substitute(match: re.Match[str]) -> str:
        value = draft.environ.get(match[1])
        if value is None:
            raise ConfigError(
                f"{origin}: {entry.key}: Invalid Environment Variable {match[1]}: it is not set"
            )
        return value

    value = _PLACEHOLDER.sub(substitute, entry.value)
    draft.settings[entry.key] = Setting(value, origin, entry.value)


def written(draft: Draft) -> tuple[tuple[str, str], ...]:
    """Key and text of every setting so far, as its author wrote it."""
    return tuple(
        (name, setting.raw if setting.written is None else setting.written)
        for name, setting in draft.settings.items()
    )


def _unknown(origin: Origin, key: str, known: Iterable[str]) -> str:
    close = get_close_matches(key.lower(), known, 1, 0.7)
    hint = f", did you mean {close[0]}?" if close else ""
    return f"{origin}: unknown key {key} is ignored{hint}"


def take_options(draft: Draft, options: Mapping[str, object]) -> None:
    """Take the settings that the command line can make."""
    for option, key in _FLAGS.items():
        if options.get(option):
            draft.settings[key] = Setting(str(options[option]), _flag(option))
    for option, key in _SWITCHES.items():
        if options.get(option):
            draft.settings[key] = Setting("true", _flag(option))
    models = options.get("models")
    if models and isinstance(models, list | tuple):
        draft.settings["load_models"] = Setting(",".join(map(str, models)), _flag("models"))


def _flag(option: str) -> Origin:
    return Origin("flag", f"--{option.replace('_', '-')}")


def take_environment(draft: Draft) -> None:
    """Take the ``TS_`` variables: a few always, the rest when the file opted in."""
    enabled = _is_true(draft, "enable_envvars_config")
    ignored: list[str] = []
    for key in draft.table.values():
        raw = draft.environ.get(key.env) if key.env else None
        if raw is None or (key.env_always and not raw):
            continue
        allowed = enabled or key.env_always
        if key.name == "allowed_urls":
            allowed = enabled and _is_true(draft, "use_env_allowed_urls")
        if not allowed:
            ignored.append(str(key.env))
            continue
        if key.name == "ts_open_inference_protocol":
            raw = str(raw == "oip").lower()
        draft.settings[key.name] = Setting(raw, Origin("variable", str(key.env)))
    if ignored:
        cure = "set enable_envvars_config=true in the configuration file"
        if "TS_ALLOWED_URLS" in ignored:
            cure += " (TS_ALLOWED_URLS needs use_env_allowed_urls=true as well)"
        draft.warnings.append(f"environment: {', '.join(ignored)} ignored; to use it, {cure}")


def _is_true(draft: Draft, name: str) -> bool:
    setting = draft.settings.get(name)
    return setting is not None and setting.raw.lower() == "true"
