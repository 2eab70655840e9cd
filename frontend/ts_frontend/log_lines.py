"""Lines on their way from whoever logs to the thread that writes, in the layout `text` or `json`.

`logs` picks the layout and hands in the lines. Requests pay for `add`, so it only keeps pieces;
`take` makes lines of them in the writing thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import orjson

from ts_frontend.log_files import FileSink, Pump
from ts_frontend.log_text import entry, output_line

_PIECES = 4  # of a text line: time stamp, what follows it, text, line feed
_TEXT_CHUNK = 1000 * _PIECES  # joined without letting another thread run
_JSON_CHUNK = 200  # the same for lines that are made one by one

Layout = Literal["text", "json"]
# In the order of the source's `names`; what is None or empty is left out.
Fields = Sequence[object]


@dataclass(frozen=True, slots=True)
class Source:
    """Who says a line, and where it goes.

    Args:
        logger: TorchServe's name of the logger, or the name of a Python logger.
        thread: shown as the thread that logged.
        level: log4j's name of the level.
        head: stands before the text, in TorchServe's pattern.
        brief: the same in the logger's own file.
        file: the logger's own file; None where it has none or its level is off.
        everywhere: whether the line also goes to ts_log.log and standard output.
        names: of the fields that a JSON line has beside its text.
    """

    logger: str
    thread: str
    level: str
    head: str
    brief: str
    file: FileSink | None = None
    everywhere: bool = True
    names: tuple[str, ...] = ()


class Lines(ABC):
    """Lines that wait to be written.

    Args:
        files: all there are, ts_log.log first.
        pump: writes the lines; woken when there are any.
        on_tick: called at most once a millisecond, before a line is added: often enough to see
            that too many wait.
    """

    def __init__(self, files: Sequence[FileSink], pump: Pump, on_tick: Callable[[], None]) -> None:
        self._root = files[0]
        self._pump = pump
        self._on_tick = on_tick
        self._millisecond = 0
        self._second = 0
        self._second_text = ""
        self._zone = ""
        self._stamp = ""

    @abstractmethod
    def add(self, source: Source, text: str, fields: Fields = ()) -> None:
        """Keep a line, which has no control characters. Never blocks; any thread may call it."""

    @abstractmethod
    def add_all(self, source: Source, texts: Sequence[str], fields: Sequence[Fields]) -> None:
        """`add` several lines, which stay together."""

    @abstractmethod
    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        """Keep what a handler wrote, which may have several lines."""

    @abstractmethod
    def add_entry(self, source: Source, text: str) -> None:
        """Keep a message of the server itself, perhaps with a traceback."""

    @abstractmethod
    def take(self) -> Iterator[tuple[FileSink, str]]:
        """Remove what waits and yield it, oldest first, as text for each file."""

    @abstractmethod
    def waiting(self) -> int:
        """About how many lines wait."""

    @abstractmethod
    def clear(self) -> None:
        """Drop what waits."""

    @abstractmethod
    def _stamped(self, millisecond: int) -> str:
        """Return the time stamp of this millisecond of the current second."""

    def _tick(self, millisecond: int) -> None:
        """Renew the cached time stamp, in local time."""
        second, rest = divmod(millisecond, 1000)
        if second != self._second:
            local = time.localtime(second)
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", local)
            minutes = abs(local.tm_gmtoff) // 60
            sign = "-" if local.tm_gmtoff < 0 else "+"
            self._zone = f"{sign}{minutes // 60:02d}:{minutes % 60:02d}"
            self._second = second
        self._stamp = self._stamped(rest)
        self._millisecond = millisecond
        self._on_tick()


class TextLines(Lines):
    """TorchServe's patterns, such as ``2024-05-30T21:46:03,625 [INFO ] main ACCESS_LOG - text``."""

    def __init__(self, files: Sequence[FileSink], pump: Pump, on_tick: Callable[[], None]) -> None:
        super().__init__(files, pump, on_tick)
        self._pieces: dict[FileSink, list[str]] = {file: [] for file in files}
        self._add_root = self._pieces[self._root].extend

    def add(self, source: Source, text: str, fields: Fields = ()) -> None:
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._tick(millisecond)
        stamp = self._stamp
        # One call each: another thread may come in between, but not within a line.
        if source.everywhere:
            self._add_root((stamp, source.head, text, "\n"))
        if source.file is not None:
            self._pieces[source.file].extend((stamp, source.brief, text, "\n"))
        if self._pump.idle:
            self._pump.wake()

    def add_all(self, source: Source, texts: Sequence[str], fields: Sequence[Fields]) -> None:
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._tick(millisecond)
        stamp = self._stamp
        if source.everywhere:
            head, pieces = source.head, list[str]()
            for text in texts:
                pieces += (stamp, head, text, "\n")
            self._add_root(pieces)
        if source.file is not None:
            head, pieces = source.brief, list[str]()
            for text in texts:
                pieces += (stamp, head, text, "\n")
            self._pieces[source.file].extend(pieces)
        if self._pump.idle:
            self._pump.wake()

    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        for line in text.splitlines() if "\n" in text else (text,):
            self.add(source, output_line(line))

    def add_entry(self, source: Source, text: str) -> None:
        self.add(source, entry(text))

    def take(self) -> Iterator[tuple[FileSink, str]]:
        for file, pieces in self._pieces.items():
            while pieces:
                some = pieces[:_TEXT_CHUNK]
                del pieces[: len(some)]
                yield file, "".join(some)

    def waiting(self) -> int:
        return max(map(len, self._pieces.values())) // _PIECES

    def clear(self) -> None:
        for pieces in self._pieces.values():
            pieces.clear()

    def _stamped(self, millisecond: int) -> str:
        return f"{self._second_text},{millisecond:03d}"


class JsonLines(Lines):
    """One object a line, the same in a logger's own file as in ts_log.log."""

    def __init__(self, files: Sequence[FileSink], pump: Pump, on_tick: Callable[[], None]) -> None:
        super().__init__(files, pump, on_tick)
        self._records: list[tuple[Source, str, str, Fields]] = []

    def add(self, source: Source, text: str, fields: Fields = ()) -> None:
        millisecond = int(time.time() * 1000)
        if millisecond != self._millisecond:
            self._tick(millisecond)
        self._records.append((source, self._stamp, text, fields))
        if self._pump.idle:
            self._pump.wake()

    def add_all(self, source: Source, texts: Sequence[str], fields: Sequence[Fields]) -> None:
        for text, parts in zip(texts, fields, strict=True):
            self.add(source, text, parts)

    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        self.add(source, text, fields)

    def add_entry(self, source: Source, text: str) -> None:
        self.add(source, text)

    def take(self) -> Iterator[tuple[FileSink, str]]:
        while self._records:
            some = self._records[:_JSON_CHUNK]
            del self._records[: len(some)]
            texts: dict[FileSink, list[str]] = {}
            for source, stamp, text, fields in some:
                line = _object(source, stamp, text, fields)
                if source.everywhere:
                    texts.setdefault(self._root, []).append(line)
                if source.file is not None:
                    texts.setdefault(source.file, []).append(line)
            for file, lines in texts.items():
                yield file, "".join(lines)

    def waiting(self) -> int:
        return len(self._records)

    def clear(self) -> None:
        self._records.clear()

    def _stamped(self, millisecond: int) -> str:
        return f"{self._second_text}.{millisecond:03d}{self._zone}"


def printed(layout: Layout, text: str, level: str = "INFO") -> str:
    """Return a line for standard output alone; the layout text shows it without time and level."""
    if layout == "text":
        return f"{text}\n"
    now = datetime.now().astimezone().isoformat(timespec="milliseconds")
    return _object(Source("stdout", "main", level, "", ""), now, text, ())


def _object(source: Source, stamp: str, text: str, fields: Fields) -> str:
    record: dict[str, object] = {
        "time": stamp,
        "level": source.level,
        "logger": source.logger,
        "thread": source.thread,
        "message": text,
    }
    for name, value in zip(source.names, fields, strict=False):
        if value is not None and value != "":
            record[name] = value
    ids = record.get("request_ids")
    if isinstance(ids, str):
        record["request_ids"] = ids.split(",")
    try:
        return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE).decode()
    except TypeError:  # bytes of a worker or client that are no UTF-8, as surrogates
        return orjson.dumps(_valid(record), option=orjson.OPT_APPEND_NEWLINE).decode()


def _valid(value: object) -> object:
    """Escape lone surrogates, which JSON can't carry, as the text layout does."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_valid(item) for item in value]
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    return value
