"""Lines on their way from whoever logs to the thread that writes, in the layout `text` or `json`.

`logs` picks the layout and hands in the lines. Requests pay for `add`, so it only keeps what it is
given; `take` makes lines of it in the writing thread.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

import orjson

from ts_frontend.log_files import FileSink, Pump
from ts_frontend.log_text import entry, output_line

_CHUNK = 256  # lines that are made without letting another thread run

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


class Made(Protocol):
    """Lines that are made when they are written, from the values they are about."""

    def text(
        self, stamp: str, millisecond: int, source: Source, values: Sequence[object], /
    ) -> tuple[str, str]:
        """The lines, whole, for the logger's own file and for ts_log.log; "" for the latter where
        the source's lines do not go there.

        Args:
            stamp: the lines' time stamp.
            millisecond: the same since 1970.
        """

    def parts(self, second: int, values: Sequence[object], /) -> Iterable[tuple[str, Fields]]:
        """For each line its text and fields; ``second`` since 1970."""


# When it was handed in, by whom, a text and its fields, or who makes lines of which values.
Record = tuple[float, Source, "str | Made", Sequence[object]]


class Lines(ABC):
    """Lines that wait to be written.

    Args:
        files: all there are, ts_log.log first.
        pump: writes the lines; woken when there are any.
        many: when so many wait, ``on_many`` is called with each that is added.
    """

    def __init__(
        self, files: Sequence[FileSink], pump: Pump, many: int, on_many: Callable[[], None]
    ) -> None:
        self._files = files
        self._root = files[0]
        self._pump = pump
        self._many = many
        self._on_many = on_many
        self._records: list[Record] = []
        # Of the writing thread:
        self._millisecond = 0
        self._second = 0
        self._second_text = ""
        self._zone = ""
        self._stamp = ""

    def add(self, source: Source, what: str | Made, fields: Sequence[object] = ()) -> None:
        """Keep a line. Never blocks; any thread may call it.

        Args:
            what: its text, which has no control characters, and ``fields`` its fields; or who makes
                it of the values in ``fields``.
        """
        records = self._records
        records.append((time.time(), source, what, fields))
        if self._pump.idle:
            self._pump.wake()
        if len(records) > self._many:
            self._on_many()

    @abstractmethod
    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        """Keep what a handler wrote, which may have several lines."""

    @abstractmethod
    def add_entry(self, source: Source, text: str) -> None:
        """Keep a message of the server itself, perhaps with a traceback."""

    def take(self) -> Iterator[tuple[FileSink, str]]:
        """Remove what waits and yield it, oldest first, as text for each file."""
        while self._records:
            some = self._records[:_CHUNK]
            del self._records[: len(some)]
            texts: dict[FileSink, list[str]] = {file: [] for file in self._files}
            self._make(some, texts)
            for file, lines in texts.items():
                if lines:
                    yield file, "".join(lines)

    def waiting(self) -> int:
        """About how many lines wait."""
        return len(self._records)

    def clear(self) -> None:
        """Drop what waits."""
        self._records.clear()

    @abstractmethod
    def _make(self, records: Sequence[Record], texts: Mapping[FileSink, list[str]]) -> None:
        """Add the lines of some records to what each file gets."""

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


class TextLines(Lines):
    """TorchServe's patterns, such as ``2024-05-30T21:46:03,625 [INFO ] main ACCESS_LOG - text``."""

    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        for line in text.splitlines() if "\n" in text else (text,):
            self.add(source, output_line(line))

    def add_entry(self, source: Source, text: str) -> None:
        self.add(source, entry(text))

    def _make(self, records: Sequence[Record], texts: Mapping[FileSink, list[str]]) -> None:
        # A handful of records for each request: their loop calls as little as it can.
        add_root, last, stamp = texts[self._root].append, self._millisecond, self._stamp
        for now, source, what, fields in records:
            millisecond = int(now * 1000)
            if millisecond != last:
                self._tick(millisecond)
                last, stamp = millisecond, self._stamp
            file = source.file
            if type(what) is not str:
                own, everywhere = what.text(stamp, millisecond, source, fields)  # type: ignore[union-attr]
                if file is not None:
                    texts[file].append(own)
                if everywhere:
                    add_root(everywhere)
                continue
            if file is not None:
                texts[file].append(f"{stamp}{source.brief}{what}\n")
            if source.everywhere:
                add_root(f"{stamp}{source.head}{what}\n")

    def _stamped(self, millisecond: int) -> str:
        return f"{self._second_text},{millisecond:03d}"


class JsonLines(Lines):
    """One object a line, the same in a logger's own file as in ts_log.log."""

    def add_block(self, source: Source, text: str, fields: Fields) -> None:
        self.add(source, text, fields)

    def add_entry(self, source: Source, text: str) -> None:
        self.add(source, text)

    def _make(self, records: Sequence[Record], texts: Mapping[FileSink, list[str]]) -> None:
        for now, source, what, fields in records:
            millisecond = int(now * 1000)
            if millisecond != self._millisecond:
                self._tick(millisecond)
            parts: Iterable[tuple[str, Fields]]
            if isinstance(what, str):
                parts = ((what, fields),)
            else:
                parts = what.parts(millisecond // 1000, fields)
            for part in parts:
                line = _object(source, self._stamp, *part)
                if source.everywhere:
                    texts[self._root].append(line)
                if source.file is not None:
                    texts[source.file].append(line)

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
