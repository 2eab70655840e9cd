"""TorchServe's five log files and standard output, in its line formats or as JSON.

`server` opens them; every room hands in whole lines and, for JSON, the fields they are made of.
The caller's side only keeps them, under half a microsecond a line, see `log_lines`; a thread of
`log_files` writes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import TextIO

from ts_frontend.config import Config
from ts_frontend.log_config import PACKAGES, LoggerStates, apply_log_config
from ts_frontend.log_files import ConsoleSink, FileSink, Pump
from ts_frontend.log_lines import Fields, JsonLines, Lines, Made, Source, TextLines, printed
from ts_frontend.log_records import RecordHandler, level_name

_INTERVAL = 0.05  # seconds in which lines gather
_HURRY = 10_000  # as many waiting lines are written without the interval
_MAX_WAITING = 100_000  # more is dropped: the disk takes nothing
_FILES_GRACE = 30.0  # seconds to write the rest at the end
_CONSOLE_GRACE = 1.0
_SOURCES = 512  # of workers and Python's loggers, remembered

# The fields of JSON lines, in the order in which the rooms hand them in.
ACCESS_FIELDS = (
    "remote",
    "method",
    "path",
    "protocol",
    "status",
    "ms",
    "request_id",
    "model",
    "version",
)
METRIC_FIELDS = (
    "name",
    "unit",
    "type",
    "dimensions",
    "hostname",
    "value",
    "timestamp",
    "request_ids",
)
MODEL_FIELDS = ("worker", "stream", "model", "version", "request_ids")

# Between time stamp and text, where the file's name says the rest.
_BRIEF = " - "

log = logging.getLogger(__name__)


class Logs:
    """The log files of one server.

    As in TorchServe every line also goes to ts_log.log and standard output, unless ``log_config``
    says otherwise. Two things are mended: the server's own lines stand in ts_log.log once, not
    twice, and rolling twice a day keeps both files. `access`, `model` and the metric methods never
    block and may be called from any thread.

    Args:
        config: uses ``log_format``, ``log_location``, ``metrics_location`` and ``log_config``.
        stdout: where the console lines go; None for nowhere.
    """

    def __init__(self, config: Config, *, stdout: TextIO | None) -> None:
        self._config = config
        self._root = FileSink(config.log_location / "ts_log.log")
        self._files = {
            "ACCESS_LOG": FileSink(config.log_location / "access_log.log"),
            "MODEL_LOG": FileSink(config.log_location / "model_log.log"),
            "TS_METRICS": FileSink(config.metrics_location / "ts_metrics.log"),
            "MODEL_METRICS": FileSink(config.metrics_location / "model_metrics.log"),
        }
        self._console: ConsoleSink | None = None
        if stdout is not None:
            self._console = ConsoleSink(stdout, partial(printed, config.log_format, level="WARN"))
        self._missing = 0
        self._pump = Pump("log-files", self._write_files, _INTERVAL)
        self._console_pump = Pump("log-console", self._write_console, 0)
        layout = JsonLines if config.log_format == "json" else TextLines
        files = (self._root, *self._files.values())
        self._lines: Lines = layout(files, self._pump, _HURRY, self._relieve)
        self._handler = RecordHandler(self._record)
        self._states = LoggerStates((*PACKAGES, *self._files))
        self._opened = False
        self._prepare_sources()

    def open(self) -> None:
        """Open the files and take over the records of Python's logging.

        Raises:
            ConfigError: a file can't be written, or ``--log-config`` can't be used.
        """
        warnings: tuple[str, ...] = ()
        self._states.save()
        try:
            for file in (self._root, *self._files.values()):
                file.open()
            if self._config.log_config is not None:
                warnings = apply_log_config(self._config.log_config, tuple(self._files))
        except ValueError:
            self._states.restore()
            self._close_files()
            raise
        self._prepare_sources()
        self._pump.start()
        self._console_pump.start()
        self._opened = True
        self._attach()
        for warning in warnings:
            log.warning("%s", warning)

    def close(self) -> None:
        """Write what waits and close; lines that come later are lost."""
        if not self._opened:
            return
        self._opened = False
        logging.getLogger().removeHandler(self._handler)
        self._states.restore()
        if self._pump.close(_FILES_GRACE):
            self._close_files()
        self._console_pump.close(_CONSOLE_GRACE)

    def flush(self) -> None:
        """Return when every line so far is in its file, and shown unless nobody reads."""
        if self._opened:
            self._pump.flush(_FILES_GRACE)
            self._console_pump.flush(_CONSOLE_GRACE)

    def access(self, line: str, fields: Fields = ()) -> None:
        """``/127.0.0.1:64003 "POST /predictions/resnet HTTP/1.1" 200 118``; `ACCESS_FIELDS`."""
        self._lines.add(self._access, line, fields)

    def ts_metrics(self, made: Made, values: Sequence[object]) -> None:
        """Metrics of the server, of which ``made`` makes lines; `METRIC_FIELDS`."""
        self._lines.add(self._ts_metrics, made, values)

    def model_metrics(self, made: Made, values: Sequence[object]) -> None:
        """Metrics of a model, of which ``made`` makes lines; `METRIC_FIELDS`."""
        self._lines.add(self._model_metrics, made, values)

    def model(
        self,
        worker: str,
        stream: str,
        level: int,
        text: str,
        *,
        model: str = "",
        version: str = "",
        request_ids: str = "",
    ) -> None:
        """What a worker wrote or logged.

        Args:
            worker: ``W-9000-resnet_1.0``.
            stream: ``stdout`` or ``stderr``.
            level: a level of Python's logging.
            text: without newline at its end; of several lines each becomes one in the layout text.
            request_ids: of the batch that ran, comma separated.
        """
        fields = (worker, stream, model, version, request_ids)
        self._lines.add_block(self._model(worker, stream, level), text, fields)

    def announce(self, text: str) -> None:
        """Show a line on standard output alone, and return when it is shown or nobody reads."""
        if self._console is not None:
            self._console.offer(printed(self._config.log_format, text))
            self._console_pump.flush(_CONSOLE_GRACE)

    def _record(self, thread: str, logger: str, level: int, text: str) -> None:
        self._lines.add_entry(self._own(thread, logger, level), text)

    def _prepare_sources(self) -> None:
        """Look up what Python's logging lets pass; asking it for each line would cost too much."""
        self._access = self._source("ACCESS_LOG", ACCESS_FIELDS, _BRIEF)
        self._ts_metrics = self._source("TS_METRICS", METRIC_FIELDS, _BRIEF)
        self._model_metrics = self._source("MODEL_METRICS", METRIC_FIELDS, _BRIEF)
        self._model = lru_cache(_SOURCES)(self._worker_source)
        self._own = lru_cache(_SOURCES)(self._record_source)

    def _source(
        self,
        logger: str,
        names: tuple[str, ...],
        brief: str = "",
        *,
        thread: str = "main",
        level: int = logging.INFO,
    ) -> Source:
        settings = logging.getLogger(logger)
        passes = level >= settings.level
        head = _head(thread, logger, level)
        return Source(
            logger,
            thread,
            level_name(level),
            head,
            brief or head,
            file=self._files[logger] if passes else None,
            everywhere=passes and settings.propagate,
            names=names,
        )

    def _worker_source(self, worker: str, stream: str, level: int) -> Source:
        return self._source("MODEL_LOG", MODEL_FIELDS, thread=f"{worker}-{stream}", level=level)

    def _record_source(self, thread: str, logger: str, level: int) -> Source:
        return Source(logger, thread, level_name(level), _head(thread, logger, level), "")

    def _relieve(self) -> None:
        """Keep memory bounded: write at once what is much, drop what the disk never takes."""
        self._pump.hurry()
        waiting = self._lines.waiting()
        if waiting > _MAX_WAITING:
            self._lines.clear()
            self._missing += waiting

    def _write_files(self) -> None:
        """In the files' thread: format and write what waits."""
        missing, self._missing = self._missing, 0
        if missing:
            log.warning("%d log lines are lost: the disk was too slow", missing)
        for file, text in self._lines.take():
            file.write(text)
            if file is self._root and self._console is not None:
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
                logger.setLevel(logging.INFO)

    def _close_files(self) -> None:
        for file in (self._root, *self._files.values()):
            file.close()


def _head(thread: str, logger: str, level: int) -> str:
    return f" [{level_name(level):<5}] {thread} {logger} - "
