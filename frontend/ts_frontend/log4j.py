"""What a log4j2 XML configuration says about levels, for `log_config`.

TorchServe's users have such files (its ``--log-config``). Which lines they want and how many is in
the levels and additivity of their loggers, and these count here; appenders, patterns and filters
are named in one warning.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.parsers import expat

from ts_frontend.values import ConfigError

SERVER = "org.pytorch.serve"
ROOT = ""  # the name of Python's root logger, too

# By log4j's names, in the numbers of Python's logging; 0 would mean to ask the parent there.
LEVELS = {
    "off": 100,
    "fatal": 50,
    "error": 40,
    "warn": 30,
    "info": 20,
    "debug": 10,
    "trace": 5,
    "all": 1,
}
_LOGGERS = {"logger", "asynclogger"}
_ROOTS = {"root", "asyncroot"}
_SECTIONS = {"appenders", "loggers", "properties"}
_FILES = (
    "LOG_LOCATION and METRICS_LOCATION say where the files go, log_format=json makes JSON lines"
)
_VARIABLE = re.compile(r"\$\{env:([^}:]+)(?::-([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Log4j:
    """What counts of a file.

    Args:
        levels: by logger, `ROOT` and `SERVER` among them.
        alone: loggers whose lines stay out of ts_log.log and standard output.
        warning: all that does not count; empty when there is nothing.
    """

    levels: dict[str, int]
    alone: tuple[str, ...]
    warning: str


def read(path: Path, lines: Sequence[str]) -> Log4j:
    """Read the levels of a log4j2 XML configuration.

    Args:
        lines: the loggers, besides root and `SERVER`, that exist here.

    Raises:
        ConfigError: not XML, not log4j2, an unknown level, or a document type: that is where XML
            hides files and bombs, and log4j2 needs none.
    """
    reader = _Reader(path)
    try:
        reader.parse(path.read_bytes())
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise ConfigError(f"--log-config {path}, line {error.lineno}: not XML: {reason}") from None
    except ConfigError:
        raise
    except (LookupError, ValueError) as error:  # an encoding that Python or expat can't read
        raise ConfigError(f"--log-config {path}, line 1: not XML: {error}") from None
    except OSError as error:
        raise ConfigError(f"--log-config {path} can't be read: {error.strerror}") from None
    levels = {name: level for name, level in reader.levels.items() if name in (SERVER, *lines)}
    if reader.root is not None:
        # As in log4j: a logger without a level has that of the root.
        levels = {**dict.fromkeys((ROOT, SERVER, *lines), reader.root), **levels}
    alone = tuple(name for name in lines if name in reader.alone)
    return Log4j(levels, alone, _warning(path, reader, lines))


def _warning(path: Path, reader: _Reader, lines: Sequence[str]) -> str:
    known = (SERVER, *lines)
    unknown = [name for name in reader.names if name not in known]
    alone = [SERVER] if SERVER in reader.alone else []
    ignored = [
        ("appenders", reader.appenders, _FILES),
        ("loggers", unknown, "nothing here logs by these names"),
        ("elements", reader.others, "only the level of a logger filters"),
        ("additivity of", alone, "its lines stand in ts_log.log once anyhow"),
    ]
    said = [
        f"{what} {', '.join(dict.fromkeys(names))} ({why})" for what, names, why in ignored if names
    ]
    if not said:
        return ""
    return f"{path}: levels and additivity of loggers count, not so: {'; '.join(said)}"


class _Reader:
    """Collects what a document says while it is parsed; names are in any case, as for log4j."""

    def __init__(self, path: Path) -> None:
        self.root: int | None = None
        self.levels: dict[str, int] = {}
        self.alone: set[str] = set()
        self.names: list[str] = []
        self.appenders: list[str] = []
        self.others: list[str] = []
        self._path = path
        self._inside: list[str] = []
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._document_type
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end

    def parse(self, data: bytes) -> None:
        """Read a whole document.

        Raises:
            ConfigError: what it says can't be used.
            ExpatError: it is not XML.
        """
        self._parser.Parse(data, True)

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        values = {name.lower(): value for name, value in attributes.items()}
        name, section = tag.lower(), "".join(self._inside[1:2])
        match len(self._inside), section:
            case 0, _:
                if name != "configuration":
                    raise self._error(f"<{tag}> is not log4j2, expected <Configuration>")
            case 1, _:
                if name not in _SECTIONS:
                    self.others.append(tag)
            case 2, "appenders":
                self.appenders.append(values.get("name", tag))
            case 2, "loggers":
                self._logger(tag, values)
            case 3, "loggers":
                if name != "appenderref":
                    self.others.append(tag)
                elif "level" in values:
                    self.others.append("AppenderRef with a level")
        self._inside.append(name)

    def _logger(self, tag: str, values: dict[str, str]) -> None:
        level = self._level(values["level"]) if "level" in values else None
        if tag.lower() in _ROOTS:
            self.root = LEVELS["error"] if level is None else level  # log4j's own default
            return
        name = values.get("name")
        if tag.lower() not in _LOGGERS or not name:
            raise self._error(f"<{tag}> in <Loggers>: expected <Root> or <Logger name=...>")
        self.names.append(name)
        if level is not None:
            self.levels[name] = level
        if values.get("additivity", "").lower() == "false":
            self.alone.add(name)

    def _level(self, text: str) -> int:
        """Return a level's number; ``${env:NAME:-default}`` is looked up as log4j does."""
        found = _VARIABLE.sub(lambda m: os.environ.get(m[1], m[2] or ""), text).strip()
        level = LEVELS.get(found.lower())
        if level is None:
            meant = f" ({found})" if found != text else ""
            raise self._error(f'level="{text}"{meant}: expected one of {", ".join(LEVELS)}')
        return level

    def _end(self, _tag: str) -> None:
        self._inside.pop()

    def _document_type(self, *_about: object) -> None:
        raise self._error("<!DOCTYPE> is refused: remove it, log4j2 needs none")

    def _error(self, what: str) -> ConfigError:
        return ConfigError(
            f"--log-config {self._path}, line {self._parser.CurrentLineNumber}: {what}"
        )
