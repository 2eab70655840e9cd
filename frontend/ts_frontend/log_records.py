"""From Python's logging to the server's log lines. Used by `logs`."""

from __future__ import annotations

import logging
from collections.abc import Callable

_LEVELS = (
    (logging.CRITICAL, "FATAL"),
    (logging.ERROR, "ERROR"),
    (logging.WARNING, "WARN"),
    (logging.INFO, "INFO"),
    (logging.DEBUG, "DEBUG"),
)
_FORMATTER = logging.Formatter()

# thread, logger, level, text
LineSink = Callable[[str, str, int, str], None]


def level_name(level: int) -> str:
    """log4j's name of a level of Python's logging."""
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
        self._sink(thread, record.name, record.levelno, text)
