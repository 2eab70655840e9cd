"""TorchServe's five log files and standard output, with its line formats.

`server` opens them; every room hands in whole lines. The caller's side appends one tuple to a
list, under half a microsecond a line; a thread of `log_files` formats and writes.
"""

from __future__ import annotations

import logging
import time
from typing import TextIO

from ts_frontend.config import Config
from ts_frontend.log_files import ConsoleSink, FileSink, Pump
from ts_frontend.log_records import PACKAGES, RecordHandler, apply_log_config, level_name

_INTERVAL = 0.05  # seconds in which lines gather
_CHUNK = 1000  # lines formatted without letting another thread run
_HURRY = 10_000  # as many waiting lines are written without the interval
_MAX_WAITING = 100_000  # more is dropped: the disk takes nothing
_FILES_GRACE = 30.0  # seconds to write the rest at the end
_CONSOLE_GRACE = 1.0

# file, timestamp, level and thread and logger, text
_Line = tuple[FileSink | None, str, str, str]

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
        self._root = FileSink(config.log_location / "ts_log.log")
        self._access = FileSink(config.log_location / "access_log.log")
        self._model = FileSink(config.log_location / "model_log.log")
        self._ts_metrics = FileSink(config.metrics_location / "ts_metrics.log")
        self._model_metrics = FileSink(config.metrics_location / "model_metrics.log")
        self._console = ConsoleSink(stdout) if stdout is not None else None
        self._lines: list[_Line] = []
        self._append = self._lines.append
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
            for sink in self._sinks():
                sink.open()
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
        self._add(self._access, "[INFO ] main ACCESS_LOG", line)

    def ts_metric(self, line: str) -> None:
        """One metric of the server, as `metrics` formats it."""
        self._add(self._ts_metrics, "[INFO ] main TS_METRICS", line)

    def model_metric(self, line: str) -> None:
        """One metric of a model, as `metrics` formats it."""
        self._add(self._model_metrics, "[INFO ] main MODEL_METRICS", line)

    def model(self, worker: str, stream: str, level: int, text: str) -> None:
        """What a worker wrote or logged.

        Args:
            worker: ``W-9000-resnet_1.0``.
            stream: ``stdout`` or ``stderr``.
            level: a level of Python's logging.
            text: without newline at its end.
        """
        self._add(self._model, f"[{level_name(level)}] {worker}-{stream} MODEL_LOG", text)

    def _record(self, thread: str, logger: str, level: str, text: str) -> None:
        self._add(None, f"[{level}] {thread} {logger}", text)

    def _add(self, sink: FileSink | None, head: str, text: str) -> None:
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._tick(millisecond)
        self._append((sink, self._stamp, head, text))
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
        waiting = len(self._lines)
        if waiting > _HURRY:
            self._pump.hurry()
        if waiting > _MAX_WAITING:
            self._lines.clear()
            self._missing += waiting

    def _write_files(self) -> None:
        """In the files' thread: format and write what waits."""
        missing, self._missing = self._missing, 0
        if missing:
            log.warning("%d log lines are lost: the disk was too slow", missing)
        while self._lines:
            batch = self._lines[:_CHUNK]
            del self._lines[: len(batch)]
            self._write_batch(batch)

    def _write_batch(self, batch: list[_Line]) -> None:
        text = "".join([f"{stamp} {head} - {text}\n" for _, stamp, head, text in batch])
        self._root.write(text)
        if self._console is not None:
            self._console.offer(text)
            self._console_pump.wake()
        for sink in {line[0] for line in batch}:
            if sink is self._model:
                lines = [
                    f"{stamp} {head} - {text}\n" for to, stamp, head, text in batch if to is sink
                ]
            else:
                lines = [f"{stamp} - {text}\n" for to, stamp, _, text in batch if to is sink]
            if sink is not None:
                sink.write("".join(lines))

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

    def _sinks(self) -> tuple[FileSink, ...]:
        return (self._root, self._access, self._model, self._ts_metrics, self._model_metrics)

    def _close_files(self) -> None:
        for sink in self._sinks():
            sink.close()
