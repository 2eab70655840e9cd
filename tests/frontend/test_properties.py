"""The .properties reader against the grammar of java.util.Properties."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ts_frontend.properties import PropertiesError, Property, decode, parse

# Lone surrogates can't stand in a file.
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


def store(text: str, *, key: bool) -> str:
    """Escape as java.util.Properties.store does: a value keeps its blanks but for the first."""
    out = []
    for position, char in enumerate(text):
        if char in "\\=:#!":
            out.append("\\" + char)
        elif char == " " and (key or position == 0):
            out.append("\\ ")
        elif char in "\t\n\r\f":
            out.append({"\t": "\\t", "\n": "\\n", "\r": "\\r", "\f": "\\f"}[char])
        elif " " <= char <= "~":
            out.append(char)
        else:
            units = char.encode("utf-16-be")
            out += [f"\\u{units[i : i + 2].hex().upper()}" for i in range(0, len(units), 2)]
    return "".join(out)


@given(st.lists(st.tuples(TEXTS, TEXTS)))
def test_what_java_stores_is_read_back(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{store(key, key=True)}={store(value, key=False)}\n" for key, value in pairs)

    assert [(entry.key, entry.value) for entry in parse(text)] == pairs
    assert [entry.line for entry in parse(text)] == list(range(1, len(pairs) + 1))


@given(TEXTS)
def test_any_text_is_read_or_refused_with_its_line(text: str) -> None:
    try:
        lines = [entry.line for entry in parse(text)]
    except PropertiesError as error:
        lines = [error.line]
    physical = len(re.split(r"\r\n|\r|\n", text))
    assert lines == sorted(set(lines))
    assert all(1 <= line <= physical for line in lines)


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("a=b", "a", "b"),
        ("a:b", "a", "b"),
        ("a b", "a", "b"),
        ("a\tb", "a", "b"),
        ("  a  =  b", "a", "b"),
        ("a = = b", "a", "= b"),
        ("a  :b=c", "a", "b=c"),
        ("a=b  ", "a", "b  "),
        ("a", "a", ""),
        ("a=", "a", ""),
        ("=b", "", "b"),
        ("a\\ b=c", "a b", "c"),
        ("a\\=b=c", "a=b", "c"),
        ("a\\:b:c", "a:b", "c"),
        ("address=http\\://host\\:80", "address", "http://host:80"),
        ("path=C\\:\\\\models", "path", "C:\\models"),
        ("a=\\q", "a", "q"),
        ("a=\\u00e9\\u0041", "a", "éA"),
        ("a=\\ud83d\\ude00", "a", "\U0001f600"),
        ("a=b\\\n   c", "a", "bc"),
        ("a=b\\\r\n\tc", "a", "bc"),
        ("a=b\\\\", "a", "b\\"),
        ("a=b\\", "a", "b"),
        ("a=b\\\n#c", "a", "b#c"),
        ("a=b\\\n\nc=d", "a", "b"),
        ("a=b#c", "a", "b#c"),
        ("\f a=b", "a", "b"),
    ],
)
def test_grammar(text: str, key: str, value: str) -> None:
    assert parse(text)[0][:2] == (key, value)


def test_comments_and_blank_lines_are_skipped_and_lines_counted() -> None:
    text = "# one\n\n ! two \\\n\r\na=1\\\n  2\rb=3"

    assert parse(text) == [Property("a", "12", 5), Property("b", "3", 7)]


@pytest.mark.parametrize("text", ["", "\n\n", "# only\n", "\\\n", "   \\\n  "])
def test_nothing_in_it(text: str) -> None:
    assert parse(text) == []


@pytest.mark.parametrize("bad", ["\\u12", "\\uwxyz", "\\u", "C:\\users"])
def test_a_broken_unicode_escape_names_its_line(bad: str) -> None:
    with pytest.raises(PropertiesError, match="four hexadecimal digits") as caught:
        parse(f"a=b\nc={bad}\n")

    assert caught.value.line == 2


def test_utf8_with_mark_and_latin1() -> None:
    assert decode(b"\xef\xbb\xbfa=\xc3\xa9") == "a=é"
    assert decode(b"a=\xe9") == "a=é"
