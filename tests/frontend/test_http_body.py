"""From a request's body to the handler's row (reference §4.4)."""

from __future__ import annotations

import contextlib

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.http_fakes import edge, post, talk
from ts_frontend.errors import BadRequest
from ts_frontend.http.body import urlencoded
from ts_frontend.http.multipart import boundary_of, split_parts

FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    ("sent", "seen"),
    [
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("Text/Plain ;x", "Text/Plain "),
        ("multipart/form-data", "multipart/form-data"),
        ("multipart/mixed; boundary=b", "multipart/mixed"),
        (None, ""),
    ],
)
async def test_a_raw_body_is_one_key_with_its_type_as_sent(sent: str | None, seen: str) -> None:
    lines = [] if sent is None else [f"Content-Type: {sent}"]
    async with edge() as e:
        await talk(e.port, post("/predictions/m", b"{}", *lines))
        assert e.inference.row() == {"body": (seen, b"{}")}


async def test_an_empty_body_is_a_key_too() -> None:
    async with edge() as e:
        await talk(e.port, b"GET /predictions/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert e.inference.row() == {"body": ("", b"")}


@pytest.mark.parametrize("kind", [FORM, FORM.upper() + "; charset=utf-8"])
async def test_a_form_is_one_key_per_field(kind: str) -> None:
    body = b"a=1+2&b=%C3%A9&c&%20d=%2B&&e=x=y"
    async with edge() as e:
        await talk(e.port, post("/predictions/m", body, f"Content-Type: {kind}"))
        assert e.inference.row() == {
            "a": ("", b"1 2"),
            "b": ("", "é".encode()),
            "c": ("", b""),
            " d": ("", b"+"),
            "e": ("", b"x=y"),
        }


async def test_a_malformed_form_is_a_400_that_says_what_to_send() -> None:
    async with edge() as e:
        request = post("/predictions/m", b"100%", f"Content-Type: {FORM}")
        answer = await talk(e.port, request)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Malformed percent escape at byte 3" in answer


async def test_parts_of_a_multipart_form_have_the_reference_s_types() -> None:
    form = aiohttp.FormData()
    form.add_field("image", b"\xff\xd8", filename="a.jpg", content_type="image/jpeg")
    form.add_field("text", b"hi", filename="t", content_type="text/plain; charset=utf-8")
    form.add_field("json", "{}", content_type="application/json")
    async with edge() as e, aiohttp.ClientSession() as session:
        async with session.post(e.url("/predictions/m"), data=form) as answer:
            assert answer.status == 200
        assert e.inference.row() == {
            "image": ("image/jpeg", b"\xff\xd8"),
            "text": ("text/plain", b"hi"),
            "json": ("", b"{}"),  # without a filename there is no type, whatever it declares
        }


def parts(body: bytes, boundary: bytes = b"B") -> list[tuple[str, str, bytes]]:
    """All parts, with their values as bytes."""
    return [(name, kind, bytes(value)) for name, kind, value in split_parts(body, boundary)]


def test_a_file_without_a_type_is_octets() -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nv\r\n--B--\r\n'
    assert parts(body) == [("f", "application/octet-stream", b"v")]


def test_preamble_padding_and_empty_values_are_read() -> None:
    body = (
        b"preamble\r\n--B  \r\ncontent-disposition: form-data; name=a\r\n\r\n\r\n"
        b'--B\r\nContent-Disposition: form-data; name="b"\r\n\r\n1\r\n\r\n2\r\n--B--\r\nepilogue'
    )
    assert parts(body) == [("a", "", b""), ("b", "", b"1\r\n\r\n2")]


def test_a_line_that_only_begins_like_the_boundary_is_content() -> None:
    body = b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--Bomb\r\n--B--"
    assert parts(body) == [("a", "", b"x\r\n--Bomb")]


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('"a;b"', "a;b"),
        ('"a\\"b"', 'a"b'),
        ('"a%22b"', 'a"b'),
        ("plain", "plain"),
        ('"größe"', "größe"),
    ],
)
def test_names_are_unquoted(written: str, name: str) -> None:
    head = f"Content-Disposition: form-data; name={written}"
    assert parts(b"--B\r\n" + head.encode() + b"\r\n\r\nv\r\n--B--")[0][0] == name


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "does not contain its boundary"),
        (b"--C\r\n\r\n--C--", "does not contain its boundary"),
        (b"--B\r\nContent-Disposition: form-data; name=a\r\n\r\nv", "before its closing boundary"),
        (b"--B\r\nContent-Disposition: form-data\r\n\r\nv\r\n--B--", "has no name"),
        (b"--B\r\n\r\nv\r\n--B--", "has no name"),
        (b"--B\r\nno end\r\n--B--", "has no end of its headers"),
        (b"--B\r\nX: " + b"y" * 9000 + b"\r\n\r\nv\r\n--B--", "headers are larger"),
    ],
)
def test_a_broken_multipart_body_is_refused_with_its_cause(body: bytes, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        parts(body)


@pytest.mark.parametrize(
    ("parameters", "boundary"),
    [(" boundary=B", b"B"), (' charset=x; Boundary="a b"', b"a b"), (" charset=x", b"")],
)
def test_the_boundary_is_found(parameters: str, boundary: bytes) -> None:
    assert boundary_of(parameters) == boundary


@given(st.lists(st.binary(max_size=60), max_size=6))
def test_any_values_come_back_from_multipart(values: list[bytes]) -> None:
    boundary = b"=_unlikely_7c1f"
    pieces = [
        b'--%b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n%b\r\n' % (boundary, i, value)
        for i, value in enumerate(values)
    ]
    body = b"".join(pieces) + b"--" + boundary + b"--\r\n"
    expected = [(str(i), "", value) for i, value in enumerate(values)]
    assert parts(body, boundary) == expected


@given(st.binary(max_size=200), st.binary(min_size=1, max_size=5))
def test_no_bytes_make_the_multipart_reader_fail_otherwise(body: bytes, boundary: bytes) -> None:
    with contextlib.suppress(BadRequest):
        parts(b"--" + boundary + b"\r\n" + body, boundary)


@given(st.dictionaries(st.text(min_size=1), st.binary(), max_size=5))
def test_any_form_comes_back(fields: dict[str, bytes]) -> None:
    def escape(data: bytes) -> bytes:
        return b"".join(b"%%%02X" % byte for byte in data)

    names = {name.encode("utf-8", "replace").decode(): value for name, value in fields.items()}
    body = b"&".join(escape(name.encode()) + b"=" + escape(v) for name, v in names.items())
    assert {name: value for name, _, value in urlencoded(body)} == names
