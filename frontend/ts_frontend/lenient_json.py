"""JSON as gson's lenient mode takes it, and TorchServe with it: quotes single or missing, comments.

`http.arguments` reads register calls with it, `model_settings` and `model_snapshot` their keys.
"""

from __future__ import annotations

import json
import math
import re

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

_DEEPEST = 32
# None of these goes back over what it has read: a body that is refused costs no more than others.
_GAP = re.compile(r"(?:[ \t\r\n\ufeff]++|//[^\n]*+|#[^\n]*+|/\*.*?\*/)*+", re.DOTALL)
_BARE = re.compile(r"[^ \t\f\r\n/\\;#={}\[\]:,]++")
_QUOTED = {
    '"': re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"', re.DOTALL),
    "'": re.compile(r"'([^'\\]*+(?:\\.[^'\\]*+)*+)'", re.DOTALL),
}
_ESCAPED = re.compile(r'\\.|"', re.DOTALL)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_INT = re.compile(r"([-+]?)0*([0-9]{1,10})")
_DOUBLE = re.compile(r"\s*+[-+]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][-+]?[0-9]++)?\s*+")
_WORDS = {"true": True, "false": False, "null": None}


class MalformedJson(ValueError):
    """The text is not even nearly JSON; says what was expected, and where."""


class Number(str):
    """A number as it was written: a version 1.10 is not 1.1."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def read(text: str) -> object:
    """Read a value: objects are dicts with text for names, and numbers are `Number`.

    Raises:
        MalformedJson: the text is none, or nested more than 32 levels deep.
    """
    return _Reader(text).document()


def java_int(text: str) -> int | None:
    """Read what Java's ``Integer.parseInt`` does: decimal digits, within 32 bits."""
    found = _INT.fullmatch(text)
    if found is None:
        return None
    number = int(found[1] + found[2])
    return number if INT32_MIN <= number <= INT32_MAX else None


def gson_int(value: object) -> int | None:
    """Read what gson does for an integer: a number or a text with one, also as 4.0 or 4e0."""
    if not isinstance(value, str):
        return None
    number = java_int(value)
    if number is None and _DOUBLE.fullmatch(value):
        double = float(value)
        if math.isfinite(double) and double.is_integer():
            number = java_int(str(int(double)))
    return number


class _Reader:
    """Reads one text from its beginning."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def document(self) -> object:
        value = self._value(_DEEPEST)
        if self._next():
            raise self._expected("the end")
        return value

    def _value(self, depth: int) -> object:
        first = self._next()
        if first in ("{", "["):
            if not depth:
                raise MalformedJson(f"nested too deeply, more than {_DEEPEST} levels")
            self._at += 1
            return self._object(depth - 1) if first == "{" else self._array(depth - 1)
        if first in _QUOTED:
            return self._quoted(first)
        word = self._bare("a value")
        if word.lower() in _WORDS:
            return _WORDS[word.lower()]
        return Number(word) if _NUMBER.fullmatch(word) else word

    def _object(self, depth: int) -> dict[str, object]:
        members: dict[str, object] = {}
        if self._take("}"):
            return members
        while True:
            first = self._next()
            name = self._quoted(first) if first in _QUOTED else self._bare("a name")
            if self._take("="):
                self._take(">")
            elif not self._take(":"):
                raise self._expected("a colon")
            members[name] = self._value(depth)
            if self._take("}"):
                return members
            if not self._take(",;"):
                raise self._expected("a comma or }")

    def _array(self, depth: int) -> list[object]:
        items: list[object] = []
        if self._take("]"):
            return items
        while True:
            items.append(self._value(depth))
            if self._take("]"):
                return items
            if not self._take(",;"):
                raise self._expected("a comma or ]")

    def _quoted(self, quote: str) -> str:
        found = _QUOTED[quote].match(self._text, self._at)
        if found is None:
            raise self._expected("an end of the text that begins", at=self._at)
        content = found[1]
        if "\\" in content:
            content = self._unescaped(content)
        self._at = found.end()
        return content

    def _unescaped(self, content: str) -> str:
        plain = _ESCAPED.sub(_for_json, content)
        try:
            text: str = json.loads(f'"{plain}"', strict=False)
        except ValueError:
            raise self._expected("no unknown escape in the text that begins") from None
        # Half of a surrogate pair is no character, and no file or log can have it.
        return text.encode("utf-8", "replace").decode()

    def _bare(self, what: str) -> str:
        found = _BARE.match(self._text, self._at)
        if found is None:
            raise self._expected(what)
        self._at = found.end()
        return found[0]

    def _next(self) -> str:
        """The next character that counts, which is not taken; "" at the end."""
        gap = _GAP.match(self._text, self._at)
        assert gap is not None  # it may be empty
        self._at = gap.end()
        return self._text[self._at : self._at + 1]

    def _take(self, wanted: str) -> bool:
        found = self._next()
        if not found or found not in wanted:
            return False
        self._at += 1
        return True

    def _expected(self, what: str, at: int | None = None) -> MalformedJson:
        at = self._at if at is None else at
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        return MalformedJson(f"expected {what} at line {line}, column {column}")


def _for_json(found: re.Match[str]) -> str:
    """Strict JSON knows no escaped single quote, and no double quote that is not escaped."""
    return {"\\'": "'", '"': '\\"'}.get(found[0], found[0])
