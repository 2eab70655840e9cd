"""What a handler's result looks like on the wire, to the byte."""

from __future__ import annotations

import io
import json
import math
from collections import OrderedDict, namedtuple
from enum import IntEnum

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ts.prediction import UnsupportedOutput, dumps, encode_body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(), inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.integers() | st.floats() | st.booleans() | st.none(), inner)
    ),
    max_leaves=20,
)


@given(JSON)
def test_it_is_json_dumps_with_two_blanks_to_the_character(value):
    assert dumps(value) == json.dumps(value, indent=2)


class Level(IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    "value",
    [
        [1e-05, 1e22, -0.0, math.nan, math.inf, -math.inf],
        [1, 2.0, math.nan],
        {"ä": "ö\u2028", "b": [], "c": {}, "d": [[]]},
        [True, 1, None, "n"],
        OrderedDict([("b", 1), ("a", [1])]),
        {"p": namedtuple("P", "x y")(1, 2)},
        [Level.LOW, 2],
        {"a": {"b": {"c": [{"d": (1, 2)}]}}},
        [[1, 2], [3.5], ["a,b", 'c"d']],
    ],
)
def test_corners_of_json(value):
    assert dumps(value) == json.dumps(value, indent=2)


def test_a_deep_result_is_written_as_far_as_json_dumps_goes():
    value: list = []
    for _ in range(300):
        value = [value, 1]
    assert dumps(value) == json.dumps(value, indent=2)


@pytest.mark.parametrize(
    ("value", "body"),
    [
        (b"raw", b"raw"),
        (bytearray(b"raw"), b"raw"),
        ("te\u00e4t", "te\u00e4t".encode()),
        (3, b"3"),
        (None, b"null"),
        (True, b"true"),
        ({"a": [1, 2]}, b'{\n  "a": [\n    1,\n    2\n  ]\n}'),
        ([], b"[]"),
    ],
)
def test_each_type_has_its_bytes(value, body):
    assert encode_body(value) == body


def test_a_tensor_travels_as_torch_save():
    tensor = torch.arange(6).reshape(2, 3)
    assert torch.equal(torch.load(io.BytesIO(encode_body(tensor))), tensor)


def test_what_json_does_not_know_is_refused():
    numpy = pytest.importorskip("numpy")
    loop: list = []
    loop.append(loop)
    for value in (object(), {"x": numpy.int64(3)}, [numpy.float32(1)], {1, 2}, loop):
        with pytest.raises(UnsupportedOutput):
            encode_body(value)
    # A float64 is a float to json; so it is here.
    assert encode_body({"x": numpy.float64(0.5)}) == b'{\n  "x": 0.5\n}'
