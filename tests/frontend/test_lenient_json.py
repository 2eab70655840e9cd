"""JSON as gson's lenient mode reads it."""

from __future__ import annotations

import json
import random
import time

import pytest

from ts_frontend.lenient_json import MalformedJson, Number, gson_int, java_int, read


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"1.0": {"b": True, "c": None, "d": False}}, "": []},
        ["\u00e9\U0001f600\n\t\"'\\/", "", {"x": ["y"]}],
        "plain",
    ],
)
def test_strict_json_is_read_as_it_is(value: object) -> None:
    assert read(json.dumps(value)) == value
    assert read(json.dumps(value, ensure_ascii=False, indent=2)) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("{'a': 'b'}", {"a": "b"}),
        ("{a: b-1.0.mar, c: TRUE, d: Null}", {"a": "b-1.0.mar", "c": True, "d": None}),
        ("{a = 1; b => [x; y]}", {"a": "1", "b": ["x", "y"]}),
        ("# one\n{a: /* two */ 1 // three\n}", {"a": "1"}),
        (r"""{'it\'s "so"': "\'"}""", {'it\'s "so"': "'"}),
        ("{'a&b': '*c#d'}", {"a&b": "*c#d"}),
        (r"'\ud83d\ude00\ud83d'", "\U0001f600?"),
        ("{a: 1, a: 2}", {"a": "2"}),
        ("'two\nlines'", "two\nlines"),
    ],
)
def test_gsons_liberties(text: str, value: object) -> None:
    assert read(text) == value


def test_numbers_keep_their_text() -> None:
    found = read("{1.10: 1.10, b: -1E+2, c: 007, d: '5'}")
    assert found == {"1.10": "1.10", "b": "-1E+2", "c": "007", "d": "5"}
    assert isinstance(found, dict)
    assert [isinstance(one, Number) for one in found.values()] == [True, True, False, False]
    assert repr(found["1.10"]) == "1.10"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a value at line 1, column 1"),
        ("{", "expected a name at line 1, column 2"),
        ("{a}", "expected a colon at line 1, column 3"),
        ("{a: 1,}", "expected a name at line 1, column 7"),
        ("{a: 1\n b: 2}", "expected a comma or } at line 2, column 2"),
        ("[1 2]", "expected a comma or ] at line 1, column 4"),
        ("{a: &x [1]}", "expected a comma or } at line 1, column 8"),
        ("{a: http://h/x}", "expected a comma or } at line 1, column 9"),
        ("{a: 'b}", "expected an end of the text that begins at line 1, column 5"),
        (r"{a: '\q'}", "unknown escape in the text that begins at line 1, column 5"),
        ("{} x", "expected the end at line 1, column 4"),
        ("/* no end", "expected a value"),
        ("[" * 33, "nested too deeply, more than 32 levels"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(MalformedJson) as caught:
        read(text)
    assert message in str(caught.value)


def test_nothing_takes_long_or_raises_anything_else() -> None:
    chance = random.Random(7)
    pieces = ["{", "}", "[", "]", ":", ",", "'", '"', "\\", "a", "1", "/*", "*/", "//", " ", "\n"]
    texts = ["".join(chance.choices(pieces, k=40)) for _ in range(2000)]
    size = 1 << 16
    texts += [piece * (size // len(piece)) for piece in pieces]
    texts += ["'" + piece * (size // len(piece)) for piece in ("\\a", "a", "\\")]
    texts += ["{" + "'k':'v'," * (size // 8)]
    begun = time.process_time()
    for text in texts:
        try:
            read(text)
        except MalformedJson:
            continue
    assert time.process_time() - begun < 5  # a quadratic one alone would take longer


@pytest.mark.parametrize(
    ("text", "java", "gson"),
    [
        ("12", 12, 12),
        ("+7", 7, 7),
        ("-2147483648", -(2**31), -(2**31)),
        ("2147483647", 2**31 - 1, 2**31 - 1),
        ("2147483648", None, None),
        ("0" * 5000 + "8", 8, 8),
        ("9" * 5000, None, None),
        ("4.0", None, 4),
        (" 4e0 ", None, 4),
        ("4.5", None, None),
        ("1e400", None, None),
        ("1_0", None, None),
        ("nan", None, None),
        ("", None, None),
        ("\u0663", None, None),
    ],
)
def test_integers(text: str, java: int | None, gson: int | None) -> None:
    assert (java_int(text), gson_int(text), gson_int(Number(text))) == (java, gson, gson)
    assert gson_int(True) is None


@pytest.mark.parametrize(
    "long", ["1" * 60_000 + "x", "1." + "1" * 60_000 + "x", " " * 60_000 + "x"]
)
def test_a_long_text_that_is_no_number_is_refused_at_once(long: str) -> None:
    assert (java_int(long), gson_int(long)) == (None, None)
