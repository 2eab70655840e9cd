"""`--log-config`: levels for the server's loggers, from Python's logging or from log4j2.

`logs` applies it once. Whatever the form of the file, its levels end up in Python's loggers:
TorchServe's ``ACCESS_LOG``, ``MODEL_LOG``, ``TS_METRICS`` and ``MODEL_METRICS`` are loggers of
these names, which `logs` asks, although their lines never pass through them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ts_frontend.values import ConfigError

PACKAGES = ("ts_frontend", "ts_worker")


class LoggerStates:
    """Levels and additivity of some loggers and of the root, as they were before the server."""

    def __init__(self, names: Sequence[str]) -> None:
        self._loggers = [logging.getLogger(), *map(logging.getLogger, names)]
        self._saved: list[tuple[int, bool]] = []

    def save(self) -> None:
        """Remember how they are."""
        self._saved = [(logger.level, logger.propagate) for logger in self._loggers]

    def restore(self) -> None:
        """Make them as they were."""
        for logger, (level, propagate) in zip(self._loggers, self._saved, strict=True):
            logger.setLevel(level)
            logger.propagate = propagate


def apply_log_config(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    """Configure Python's logging from YAML, JSON or ini, or with the levels of a log4j2 XML.

    Args:
        lines: the loggers whose lines go to files of their own.

    Returns:
        Warnings: what of the file has no effect, and what to do instead.

    Raises:
        ConfigError: the file is not what its ending says.
    """
    suffix = path.suffix.lower()
    if suffix == ".xml":
        return _apply_log4j(path, lines)
    if suffix == ".properties":
        return (
            f"log4j2 configuration in properties form is not read; {path} has no effect: give a "
            "log4j2 XML, whose levels count, or Python's logging in YAML, JSON or ini form",
        )
    if suffix in (".yaml", ".yml", ".json"):
        _apply_mapping(path)
    else:
        _apply_ini(path)
    return tuple(_handler_warnings(path, lines))


def _apply_log4j(path: Path, lines: Sequence[str]) -> tuple[str, ...]:
    from ts_frontend import log4j  # here, as the others: few starts need them

    found = log4j.read(path, lines)
    for name, level in found.levels.items():
        for own in PACKAGES if name == log4j.SERVER else (name,):
            logging.getLogger(own).setLevel(level)
    for name in found.alone:
        logging.getLogger(name).propagate = False
    return (found.warning,) if found.warning else ()


def _handler_warnings(path: Path, lines: Sequence[str]) -> list[str]:
    return [
        f"{path}: handlers of {name} get nothing, since its lines don't pass through Python's "
        "logging; its level and propagate count"
        for name in lines
        if logging.getLogger(name).handlers
    ]


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
