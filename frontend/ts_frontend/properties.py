"""Java's .properties format, which config.properties and snapshots are written in.

`sources` reads, `core.snapshot` writes. Follows the grammar of `java.util.Properties`: comments,
three separators, line continuation and backslash escapes; it keeps line numbers for messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}
_LETTERS = {char: letter for letter, char in _ESCAPES.items()}
_UNSAFE = re.compile(r"[\\:=#!\t\n\r\f]|[^ -~]")


class PropertiesError(ValueError):
    """A line that no reader of this format accepts. ``line`` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class Property(NamedTuple):
    """One entry. ``line`` is the first physical line it stands on, counted from 1."""

    key: str
    value: str
    line: int


def parse(text: str) -> list[Property]:
    """Read every entry in order, repeated keys included.

    Blanks at the end of a value belong to it, as in Java.

    Raises:
        PropertiesError: a ``\\u`` that four hexadecimal digits do not follow.
    """
    return [_entry(line, number) for line, number in _logical_lines(text)]


def decode(data: bytes) -> str:
    """Text of a file: UTF-8 where it is valid UTF-8, else Latin-1, the only one Java knows."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def dump(comments: Iterable[str], entries: Iterable[tuple[str, str]]) -> str:
    """Write entries as `java.util.Properties.store` does: ASCII, separators escaped as well.

    Args:
        entries: keys, which must be plain words, and values of any kind.
    """
    lines = [f"#{comment}" for comment in comments]
    lines += [f"{key}={_escape(value)}" for key, value in entries]
    return "".join(f"{line}\n" for line in lines)


def _escape(text: str) -> str:
    escaped = _UNSAFE.sub(_escape_one, text)
    # The reader drops blanks at the beginning of a value.
    return f"\\{escaped}" if escaped.startswith(" ") else escaped


def _escape_one(match: re.Match[str]) -> str:
    char = match[0]
    letter = _LETTERS.get(char)
    if letter or (char.isascii() and char.isprintable()):
        return f"\\{letter or char}"
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4].upper()}" for at in range(0, len(units), 4))


def _logical_lines(text: str) -> Iterator[tuple[str, int]]:
    """Join continued lines; drop blank lines and comments (which cannot be continued)."""
    parts: list[str] = []
    first = 0
    for number, line in enumerate(_LINE_END.split(text), 1):
        body = line.lstrip(_BLANK)
        if not parts:
            if not body or body[0] in "#!":
                continue
            first = number
        if _continues(body):
            parts.append(body[:-1])
            continue
        if body or any(parts):
            yield "".join([*parts, body]), first
        parts = []
    if any(parts):
        yield "".join(parts), first


def _continues(line: str) -> bool:
    """Whether an odd number of backslashes ends the line: an even one is escaped backslashes."""
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _entry(line: str, number: int) -> Property:
    end = _key_end(line)
    rest = line[end:].lstrip(_BLANK)
    if rest[:1] in ("=", ":"):
        rest = rest[1:].lstrip(_BLANK)
    return Property(_unescape(line[:end], number), _unescape(rest, number), number)


def _key_end(line: str) -> int:
    """Where the first separator stands that no backslash escapes."""
    position = 0
    while position < len(line) and line[position] not in "=: \t\f":
        position += 2 if line[position] == "\\" else 1
    return min(position, len(line))


def _unescape(text: str, line: int) -> str:
    if "\\" not in text:
        return text
    out: list[str] = []
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char != "\\":
            out.append(char)
            continue
        escaped = text[position : position + 1]
        position += 1
        if escaped == "u":
            out.append(_unicode(text[position : position + 4], line))
            position += 4
        else:
            out.append(_ESCAPES.get(escaped, escaped))
    return _join_surrogates("".join(out))


def _unicode(digits: str, line: int) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{4}", digits):
        cure = "write a backslash as \\\\"
        raise PropertiesError(line, f"\\u{digits} is not four hexadecimal digits; {cure}")
    return chr(int(digits, 16))


def _join_surrogates(text: str) -> str:
    """Java strings are UTF-16: two escapes may make one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
