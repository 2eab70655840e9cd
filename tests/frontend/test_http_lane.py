"""A lane takes what aiohttp's parsers read as one whole request of its kind, and nothing else."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
from aiohttp import HttpVersion11
from aiohttp.http import HttpProcessingError, HttpRequestParser
from aiohttp.http_parser import HttpRequestParserPy
from aiohttp.web import BaseRequest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ts_frontend.http.exchange import Exchange
from ts_frontend.http.lane import MAX_HEAD, Lane, lane

# One and the same where aiohttp lacks its C extension.
PARSERS = [
    pytest.param(HttpRequestParser, id="C"),
    pytest.param(HttpRequestParserPy, id="Python"),
]
MARKS = b"explain\0False\0url_path\0"
PROBE = b"POST /probe HTTP/1.1\r\nHost: p\r\nContent-Length: 2\r\n\r\nok"


class Read(NamedTuple):
    """A request as a parser reads it."""

    message: Any
    payload: Any

    @property
    def body(self) -> bytes:
        return bytes(self.payload.read_nowait(-1)) if self.payload.is_eof() else b"unfinished"

    @property
    def exchange(self) -> Exchange:
        protocol = cast(Any, SimpleNamespace(ssl_context=None, peername=None, sockname=None))
        no = cast(Any, None)
        request = BaseRequest(self.message, self.payload, protocol, no, no, no)
        made = Exchange(request, "id", 0.0)
        made.marks = MARKS
        return made

    def packed(self) -> bytes:
        pairs = [part for pair in self.message.raw_headers for part in pair]
        return b"\0".join([*pairs, MARKS])


def a_parser(kind: Any) -> Any:
    protocol = SimpleNamespace(
        _reading_paused=False, pause_reading=lambda: None, resume_reading=lambda **_: None
    )
    loop = cast(Any, SimpleNamespace())
    return kind(cast(Any, protocol), loop, 2**16, auto_decompress=False)


def feed(parser: Any, data: bytes) -> list[Read] | None:
    """What a parser makes of bytes; None for an error, or for an end of HTTP."""
    try:
        messages, upgraded, _ = parser.feed_data(data)
    except HttpProcessingError:
        return None
    return None if upgraded else [Read(*one) for one in messages]


def whole(kind: Any, data: bytes) -> Read | None:
    """The one request in ``data``; None where it is not just that, and all of it."""
    parser = a_parser(kind)
    found = feed(parser, data)
    if not found or len(found) > 1 or not found[0].payload.is_eof():
        return None
    # At rest? Then what comes next is a request of its own.
    after = feed(parser, PROBE)
    if not after or [(one.message.path, one.body) for one in after] != [("/probe", b"ok")]:
        return None
    return found[0]


def repeat(*_: object) -> Any:
    raise AssertionError("these tests ask no model")


def lane_of(kind: Any, data: bytes) -> Lane | None:
    """A lane as a connection makes it, of what its parser has read."""
    found = feed(a_parser(kind), data)
    return lane(data, found[0].exchange, repeat) if found else None


LINES = [
    *(b"Accept: */*", b"X-Twice: 1", b"X-Twice: 2", b"X-Empty: ", b"Authorization: Bearer a b"),
    *(b"Connection: keep-alive", b"Content-Type: application/json", b"Content-Encoding: gzip"),
]
# What makes it another kind of request, or is spelled as few clients do.
ODD = [
    *(b"Connection: close", b"Transfer-Encoding: chunked", b"transfer-encoding: identity"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"Connection: Upgrade", b"TE: trailers"),
    *(b"Trailer: X", b"Content-Length: 3", b"Content-Length: 0", b"CONTENT-LENGTH:4"),
    *(b"Content-Length : 5", b"X:no-space", b"X:\ttab", b"X: trailing ", b" folded: 1", b"X: \xff"),
    *(b"X: a\nContent-Length: 1", b"X: a\rb", b"X: \0", b"Host: again", b"Bad Name: x", b": none"),
]
METHODS = [b"POST", b"PUT", b"GET", b"HEAD", b"DELETE", b"CONNECT", b"PRI", b"post"]
TARGETS = [b"/predictions/m", b"/a?b=c&%20", b"http://x/y", b"*", b"x:1", b"/expect/upgrade", b""]
bodies = st.one_of(st.binary(max_size=40), st.sampled_from([b"0\r\n\r\n", PROBE, b"\r\n"]))


@st.composite
def heads(draw: st.DrawFn, odd: bool = True) -> tuple[bytes, bytes]:
    """A head in two halves, between which the digits of its Content-Length belong."""
    known = st.sampled_from(LINES + (ODD if odd else []))
    lines = draw(st.lists(known, max_size=5, unique=not odd))
    name = draw(st.sampled_from([b"Content-Length", b"content-length", b"CONTENT-length"]))
    at = draw(st.integers(0, len(lines)))
    method = draw(st.sampled_from(METHODS if odd else METHODS[:5]))
    target = draw(st.sampled_from(TARGETS if odd else TARGETS[:3]))
    version = draw(st.sampled_from([b"1.1"] * 4 + ([b"1.0", b"2.0"] if odd else [])))
    first = b"%b %b HTTP/%b" % (method, target, version)
    before = b"\r\n".join([first, b"Host: x", *lines[:at], name + b": "])
    return before, b"\r\n".join([b"", *lines[at:], b"", b""])


def request(head: tuple[bytes, bytes], body: bytes, digits: bytes | None = None) -> bytes:
    return head[0] + (digits or b"%d" % len(body)) + head[1] + body


def meant(data: Read) -> tuple[object, ...]:
    """What a request asks for, but for its body and how long that is."""
    message = data.message
    pairs = [one for one in message.raw_headers if one[0].lower() != b"content-length"]
    return message.method, message.path, message.version, message.should_close, pairs


def check(kind: Any, first: bytes, second: bytes) -> bool:
    """Whether the second request is on the first one's lane; then they have to mean the same."""
    made = lane_of(kind, first)
    body = None if made is None else made.body(second)
    if made is None or body is None:
        return False
    before, after = whole(kind, first), whole(kind, second)
    assert before is not None
    assert after is not None
    assert after.body == body
    made.headers(body + b"another length")
    for _ in range(2):
        assert made.headers(body) == after.packed()
    assert meant(before) == meant(after)
    message = after.message
    assert message.version == HttpVersion11
    assert [message.should_close, message.upgrade, message.chunked] == [False] * 3
    return True


@pytest.mark.parametrize("kind", PARSERS)
@given(heads(odd=False), bodies, bodies)
def test_a_plain_request_is_taken_whatever_its_body(
    kind: Any, head: tuple[bytes, bytes], one: bytes, other: bytes
) -> None:
    assert check(kind, request(head, one), request(head, other))


DIGITS = st.sampled_from(
    [b"0", b"1", b"01", b"+3", b"3 ", b" 3", b"0x3", b"3_0", b"", b"-1", b"3,3"]
)


@pytest.mark.parametrize("kind", PARSERS)
@given(heads(), bodies, bodies, st.none() | DIGITS, st.none() | DIGITS)
@example(
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ", b"\r\n\r\n"), b"abc", b"abc", None, b"3 "
)
@example(
    (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ", b"\r\n\r\n"), b"a", b"abc", b"01", None
)
def test_what_is_taken_means_what_the_parser_reads(
    kind: Any,
    head: tuple[bytes, bytes],
    one: bytes,
    other: bytes,
    first: bytes | None,
    second: bytes | None,
) -> None:
    check(kind, request(head, one, first), request(head, other, second))


edits = st.lists(
    st.tuples(st.integers(0, 200), st.integers(0, 3), st.binary(max_size=3)), max_size=3
)


@pytest.mark.parametrize("kind", PARSERS)
@given(heads(), bodies, bodies, edits)
def test_bytes_that_differ_somewhere_are_read_again(
    kind: Any, head: tuple[bytes, bytes], one: bytes, other: bytes, changes: list[Any]
) -> None:
    data = request(head, other)
    for at, gone, come in changes:
        data = data[:at] + come + data[at + gone :]
    check(kind, request(head, one), data)


@pytest.mark.parametrize("kind", PARSERS)
@given(heads(), bodies, st.integers(1, 300), st.binary(max_size=3))
@example((b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: ", b"\r\n\r\n"), PROBE, 48, b"")
def test_only_a_whole_request_makes_a_lane(
    kind: Any, head: tuple[bytes, bytes], body: bytes, at: int, more: bytes
) -> None:
    """What was fed last may be the end of a request, or have the begin of another behind it."""
    data = request(head, body)
    early, late = data[:at], data[at:] + more
    assume(late)
    parser = a_parser(kind)
    if feed(parser, early) != []:
        return
    found = feed(parser, late)
    if found and found[0].payload.is_eof() and lane(late, found[0].exchange, repeat) is not None:
        # Only empty lines came before, which count for nothing.
        assert not early.strip(b"\r\n")
        assert whole(kind, late) is not None


SMUGGLED = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"


@pytest.mark.parametrize("kind", PARSERS)
@pytest.mark.parametrize("early", [b"POST /other HTTP/1.1\r\nX: ", b"PO", b"\r\n", b"GET "])
def test_the_end_of_a_request_that_looks_like_one_makes_no_lane(kind: Any, early: bytes) -> None:
    parser = a_parser(kind)
    assert feed(parser, early) == []
    found = feed(parser, SMUGGLED)
    made = lane(SMUGGLED, found[0].exchange, repeat) if found else None
    assert (made is not None) == (early == b"\r\n")


@pytest.mark.parametrize(
    "line",
    [
        *("Transfer-Encoding: chunked", "Expect: 100-continue", "Upgrade: h2c", "Trailer: X"),
        *("HTTP2-Settings: x", "Connection: close", "X:y", "X:  y", "X: " + "y" * MAX_HEAD),
    ],
)
@pytest.mark.parametrize("kind", PARSERS)
def test_there_is_no_lane_for(kind: Any, line: str) -> None:
    data = PROBE.replace(b"Host: p", b"Host: p\r\n" + line.encode())
    assert lane_of(kind, PROBE) is not None
    assert lane_of(kind, data) is None


@pytest.mark.parametrize("kind", PARSERS)
def test_a_length_is_taken_in_its_shortest_spelling_only(kind: Any) -> None:
    made = lane_of(kind, PROBE)
    assert made is not None
    assert made.body(PROBE) == b"ok"
    for digits in (b"02", b"+2", b" 2", b"2 ", b"1", b"3", b"", b"0" * 13 + b"2"):
        assert made.body(PROBE.replace(b": 2\r", b": " + digits + b"\r")) is None


@pytest.mark.parametrize("kind", PARSERS)
def test_no_byte_of_the_head_may_differ(kind: Any) -> None:
    data = PROBE.replace(b"\r\n\r\n", b"\r\nAuthorization: Bearer x\r\n\r\n")
    made = lane_of(kind, data)
    assert made is not None
    assert made.body(data) == b"ok"
    for at in range(len(data) - len(b"ok")):
        other = bytes([data[at] ^ 1])
        for there in (other, b"", b" ", data[at : at + 1] * 2):
            if there != data[at : at + 1]:
                assert made.body(data[:at] + there + data[at + 1 :]) is None
