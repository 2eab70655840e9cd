"""From Python's logging to the server's log lines. Used by `logs`."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from ts_frontend.values import ConfigError

PACKAGES = ("ts_frontend", "ts_worker")
_LEVELS = (
    (logging.CRITICAL, "FATAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARN "),
    (logging.INFO, "INFO "),
    (logging.DEBUG, "DEBUG"),
)
_FORMATTER = logging.Formatter()

# thread, logger, padded level name, text
LineSink = Callable[[str, str, str, str], None]


def level_name(level: int) -> str:
    """log4j's name of a level, padded to five characters as TorchServe's pattern does."""
    for floor, name in _LEVELS:
        if level >= floor:
            return name
    return "TRACE"


class RecordHandler(logging.Handler):
    """Hands every record to the log as thread, logger, level and text with its traceback."""

    def __init__(self, sink: LineSink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = _FORMATTER.format(record)
        except (TypeError, ValueError, KeyError):
            self.handleError(record)  # a message that doesn't fit its arguments
            return
        thread = record.threadName or "main"
        if thread == "MainThread":
            thread = "main"
        self._sink(thread, record.name, level_name(record.levelno), text)


def apply_log_config(path: Path) -> str | None:
    """Configure Python's logging from ``--log-config``: YAML, JSON or ini; log4j2 is not read.

    Returns:
        A warning, or None.

    Raises:
        ConfigError: the file is not what Python's logging accepts.
    """
    suffix = path.suffix.lower()
    if suffix in (".xml", ".properties"):
        return (
            f"log4j2 configuration is not read; {path} has no effect: "
            "give a Python logging configuration in YAML, JSON or ini form"
        )
    if suffix in (".yaml", ".yml", ".json"):
        _apply_mapping(path)
    else:
        _apply_ini(path)
    return None


def _apply_mapping(path: Path) -> None:
    import logging.config

    import yaml

    try:
        settings = yaml.safe_load(path.read_text("utf-8"))  # JSON is YAML
        if not isinstance(settings, dict):
            raise ValueError("expected a mapping")
        settings.setdefault("disable_existing_loggers", False)
        logging.config.dictConfig(settings)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, yaml.YAMLError) as error:
        raise _unusable(path, error) from None


def _apply_ini(path: Path) -> None:
    import configparser
    import logging.config

    try:
        logging.config.fileConfig(path, disable_existing_loggers=False)
    except (ValueError, KeyError, RuntimeError, OSError, configparser.Error) as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: Exception) -> ConfigError:
    reason = " ".join(f"{error.__cause__ or error}".split())
    return ConfigError(f"--log-config {path}: not a Python logging configuration: {reason}")
