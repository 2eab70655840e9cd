"""TorchServe's five log files and standard output, with its line formats.

`server` opens them; every room hands in whole lines. The caller's side adds their pieces to lists,
under half a microsecond a line; a thread of `log_files` joins and writes them.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TextIO

from ts_frontend.config import Config
from ts_frontend.log_files import ConsoleSink, FileSink, Pump
from ts_frontend.log_records import PACKAGES, RecordHandler, apply_log_config, level_name

_INTERVAL = 0.05  # seconds in which lines gather
_PIECES = 4  # of a line: time stamp, level and thread and logger, text, line feed
_CHUNK = 1000 * _PIECES  # joined without letting another thread run
_HURRY = 10_000  # as many waiting lines are written without the interval
_MAX_WAITING = 100_000  # more is dropped: the disk takes nothing
_FILES_GRACE = 30.0  # seconds to write the rest at the end
_CONSOLE_GRACE = 1.0

# Between time stamp and text, where the file's name says the rest.
_BRIEF = " - "
_ACCESS = " [INFO ] main ACCESS_LOG - "
_TS_METRICS = " [INFO ] main TS_METRICS - "
_MODEL_METRICS = " [INFO ] main MODEL_METRICS - "

log = logging.getLogger(__name__)


class Logs:
    """The log files of one server.

    As in TorchServe every line also goes to ts_log.log and standard output. Two things are mended:
    the server's own lines stand in ts_log.log once, not twice, and rolling twice a day keeps both
    files. `access`, `model` and the metric methods never block and may be called from any thread.

    Args:
        config: uses ``log_location``, ``metrics_location`` and ``log_config``.
        stdout: where the console lines go; None for nowhere.
    """

    def __init__(self, config: Config, *, stdout: TextIO | None) -> None:
        self._config = config
        self._root = _Book(config.log_location / "ts_log.log")
        self._access = _Book(config.log_location / "access_log.log")
        self._model = _Book(config.log_location / "model_log.log")
        self._ts_metrics = _Book(config.metrics_location / "ts_metrics.log")
        self._model_metrics = _Book(config.metrics_location / "model_metrics.log")
        self._books = (
            self._root,
            self._access,
            self._model,
            self._ts_metrics,
            self._model_metrics,
        )
        self._console = ConsoleSink(stdout) if stdout is not None else None
        self._missing = 0
        self._pump = Pump("log-files", self._write_files, _INTERVAL)
        self._console_pump = Pump("log-console", self._write_console, 0)
        self._handler = RecordHandler(self._record)
        self._levels: dict[str, int] = {}
        self._opened = False
        self._millisecond = 0
        self._second = 0
        self._second_text = ""
        self._stamp = ""

    def open(self) -> None:
        """Open the files and take over the records of Python's logging.

        Raises:
            ConfigError: a file can't be written, or ``--log-config`` can't be used.
        """
        warning = None
        try:
            for book in self._books:
                book.sink.open()
            if self._config.log_config is not None:
                warning = apply_log_config(self._config.log_config)
        except ValueError:
            self._close_files()
            raise
        self._pump.start()
        self._console_pump.start()
        self._opened = True
        self._attach()
        if warning:
            log.warning("%s", warning)

    def close(self) -> None:
        """Write what waits and close; lines that come later are lost."""
        if not self._opened:
            return
        self._opened = False
        logging.getLogger().removeHandler(self._handler)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        if self._pump.close(_FILES_GRACE):
            self._close_files()
        self._console_pump.close(_CONSOLE_GRACE)

    def flush(self) -> None:
        """Return when every line so far is in its file, and shown unless nobody reads."""
        if self._opened:
            self._pump.flush(_FILES_GRACE)
            self._console_pump.flush(_CONSOLE_GRACE)

    def access(self, line: str) -> None:
        """``/127.0.0.1:64003 "POST /predictions/resnet HTTP/1.1" 200 118``."""
        self._add(self._access, _ACCESS, _BRIEF, line)

    def ts_metric(self, line: str) -> None:
        """One metric of the server, as `metrics` formats it."""
        self._add(self._ts_metrics, _TS_METRICS, _BRIEF, line)

    def model_metric(self, line: str) -> None:
        """One metric of a model, as `metrics` formats it."""
        self._add(self._model_metrics, _MODEL_METRICS, _BRIEF, line)

    def model(self, worker: str, stream: str, level: int, text: str) -> None:
        """What a worker wrote or logged.

        Args:
            worker: ``W-9000-resnet_1.0``.
            stream: ``stdout`` or ``stderr``.
            level: a level of Python's logging.
            text: without newline at its end.
        """
        head = f" [{level_name(level)}] {worker}-{stream} MODEL_LOG - "
        self._add(self._model, head, head, text)

    def _record(self, thread: str, logger: str, level: str, text: str) -> None:
        self._add(None, f" [{level}] {thread} {logger} - ", "", text)

    def _add(self, book: _Book | None, head: str, brief: str, text: str) -> None:
        """Add a line to ts_log.log and standard output, and with ``brief`` to a file of its own."""
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._tick(millisecond)
        stamp = self._stamp
        # One call each: another thread may come in between, but not within a line.
        self._root.add((stamp, head, text, "\n"))
        if book is not None:
            book.add((stamp, brief, text, "\n"))
        if self._pump.idle:
            self._pump.wake()

    def _tick(self, millisecond: int) -> None:
        """Renew the cached timestamp: ``2024-05-30T21:46:03,625``, local time."""
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(second))
            self._second = second
        self._stamp = f"{self._second_text},{rest:03d}"
        self._millisecond = millisecond
        # Looking once a millisecond is enough to keep memory bounded.
        waiting = len(self._root.pieces) // _PIECES
        if waiting > _HURRY:
            self._pump.hurry()
        if waiting > _MAX_WAITING:
            for book in self._books:
                book.pieces.clear()
            self._missing += waiting

    def _write_files(self) -> None:
        """In the files' thread: format and write what waits."""
        missing, self._missing = self._missing, 0
        if missing:
            log.warning("%d log lines are lost: the disk was too slow", missing)
        for book in self._books:
            while book.pieces:
                text = book.take()
                book.sink.write(text)
                if book is self._root and self._console is not None:
                    self._console.offer(text)
                    self._console_pump.wake()

    def _write_console(self) -> None:
        if self._console is not None:
            self._console.drain()

    def _attach(self) -> None:
        logging.getLogger().addHandler(self._handler)
        for name in PACKAGES:
            logger = logging.getLogger(name)
            if logger.level == logging.NOTSET:
                self._levels[name] = logger.level
                logger.setLevel(logging.INFO)

    def _close_files(self) -> None:
        for book in self._books:
            book.sink.close()


class _Book:
    """A file and the pieces of the lines that wait for it."""

    __slots__ = ("add", "pieces", "sink")

    def __init__(self, path: Path) -> None:
        self.sink = FileSink(path)
        self.pieces: list[str] = []
        self.add = self.pieces.extend

    def take(self) -> str:
        """Remove the oldest lines and return their text."""
        some = self.pieces[:_CHUNK]
        del self.pieces[: len(some)]
        return "".join(some)
