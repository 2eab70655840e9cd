"""HTTP itself: how a request is read (4.1, end of 4.4) and what is on every response (4.7)."""

from __future__ import annotations

import json
import re

import pytest

from tests.compat.reference.conftest import Ask
from tests.compat.reference.wire import FIXED, ask, connected, error, pretty, request
from tests.e2e.conftest import Server

pytestmark = pytest.mark.e2e

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
INVALID = error(400, "BadRequestException", "Invalid HTTP message.")


# 4.1: paths and queries


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        pytest.param("/predictions%2Fmirror", "", id="4.1 escaped slash separates"),
        pytest.param("/%70redictions/mirror", "", id="4.1 decoded before it is split"),
        pytest.param("/predictions/mirror///", "", id="4.1 trailing empty elements go"),
        pytest.param("/predictions/mirror/1.0/a//b", "a//b", id="4.1 inner empty elements stay"),
        pytest.param("/predictions/mirror/1.0/a+b", "a+b", id="4.1 plus is no space in a path"),
        pytest.param("/predictions/mirror/1.0/%C3%BC", "\u00fc", id="4.1 decoded as UTF-8"),
        pytest.param("http://there/predictions/mirror", "", id="4.1 absolute form"),
        pytest.param("/predictions/mirror?x=%zz", "", id="4.1 a query that is not looked at"),
    ],
)
def test_paths(inference: Ask, target: str, rest: str) -> None:
    reply = inference("POST", target, b"x")
    assert reply.status == 200, reply.body
    assert reply.json["headers"]["url_path"] == rest


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("/predictions/%zz", id="4.1 malformed escape"),
        pytest.param("/predictions/mirror%2", id="4.1 cut off escape"),
        pytest.param("/invocations?model_name=%zz", id="4.1 malformed escape in a query"),
    ],
)
def test_malformed_escapes(inference: Ask, target: str) -> None:
    reply = inference("POST", target, b"x")
    assert reply.line == "HTTP/1.1 403 Forbidden"
    assert reply.json["type"] == "IllegalArgumentException"


@pytest.mark.parametrize(
    ("query", "row"),
    [
        pytest.param("a=1&b=2;c=3", {"a": "1", "b": "2", "c": "3"}, id="4.1 both separators"),
        pytest.param("a=x+y", {"a": "x y"}, id="4.1 plus is a space"),
        pytest.param("a=1&a=2", {"a": "2"}, id="4.1 a later duplicate overwrites in the row"),
        pytest.param("a&b=", {"a": "", "b": ""}, id="4.1 no value"),
        pytest.param("a=b=c", {"a": "b=c"}, id="4.1 the first equals sign splits"),
        pytest.param("%C3%BC=%C3%BC", {"\u00fc": "\u00c3\u00bc"}, id="4.1 UTF-8 in a query"),
    ],
)
def test_query_pairs(inference: Ask, query: str, row: dict[str, str]) -> None:
    """As bytes in the row of a route that takes them."""
    seen = inference("POST", f"/models/mirror/invoke?{query}", b"").json["row"]
    assert seen == {name: ["bytearray", value] for name, value in row.items()} | {
        "body": ["bytearray", ""]
    }


def test_pairs_beyond_1024(inference: Ask) -> None:
    """4.1 at most 1024 pairs."""
    query = "&".join(f"{number:x}=" for number in range(1100))
    seen = inference("POST", f"/models/mirror/invoke?{query}", b"").json["row"]
    assert list(seen) == [*(f"{number:x}" for number in range(1024)), "body"]


# 4.1: limits of heads. TorchServe's were 4096 bytes of request line and 8192 of all headers.


@pytest.mark.parametrize(
    ("size", "status"),
    [
        pytest.param(4000, 200, id="4.1 request line of 4000 bytes"),
        pytest.param(8100, 200, id="4.1 request line of 8100 bytes, mended"),
        pytest.param(8300, 400, id="4.1 request line of 8300 bytes"),
    ],
)
def test_request_lines(inference: Ask, size: int, status: int) -> None:
    reply = inference("GET", "/predictions/mirror?" + "x" * (size - 34))
    assert reply.status == status
    if status == 400:
        assert reply.body == INVALID


@pytest.mark.parametrize(
    ("lines", "size", "status"),
    [
        pytest.param(1, 8000, 200, id="4.1 a header of 8000 bytes"),
        pytest.param(1, 8300, 400, id="4.1 a header of 8300 bytes"),
        pytest.param(10, 7000, 200, id="4.1 headers of 70 kB together, mended"),
        pytest.param(2000, 100, 400, id="4.1 2000 headers"),
    ],
)
def test_header_sizes(inference: Ask, lines: int, size: int, status: int) -> None:
    headers = [f"X-{number}: {'x' * (size - 10)}" for number in range(lines)]
    reply = inference("POST", "/predictions/mirror", b"x", *headers)
    assert reply.status == status
    if status == 400:
        assert reply.body == INVALID


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no http\r\n\r\n", id="4.1 no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", id="4.1 TLS"),
        pytest.param(b"GET / HTTP/1.1\r\nno colon\r\n\r\n", id="4.1 no header line"),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: one\r\n\r\n", id="4.1 a length that is none"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="4.1 two framings",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            id="4.1 two lengths",
        ),
        pytest.param(
            b"FOO /predictions/mirror HTTP/1.1\r\n\r\n", id="4.1 a made up method, mended"
        ),
    ],
)
def test_undecodable(plain: Server, data: bytes) -> None:
    with connected(plain.ports[0]) as line:
        line.send(data)
        reply = line.read()
        assert (reply.line, reply.body) == ("HTTP/1.1 400 Bad Request", INVALID)
        assert reply.header("content-type") == "application/json"
        assert reply.header("connection") == "close"
        assert line.ended()


# 4.4, end: how bodies come


def test_expect_100_continue(plain: Server) -> None:
    """4.4 Expect: 100-continue is honoured automatically."""
    head = request("POST", "/predictions/mirror", None, "Content-Length: 2")
    with connected(plain.ports[0]) as line:
        line.send(head.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
        reply = line.read()
        assert (reply.line, reply.headers) == ("HTTP/1.1 100 Continue", ())
        line.send(b"ok")
        assert line.read().json["row"] == {"body": ["bytearray", "ok"]}


def test_expect_100_continue_of_too_much(plain: Server) -> None:
    """4.9: 413 before a byte of the body was sent."""
    head = request(
        "POST", "/predictions/mirror", None, "Content-Length: 200001", "Expect: 100-continue"
    )
    with connected(plain.ports[0]) as line:
        line.send(head)
        assert line.read().status == 413


@pytest.mark.parametrize("pieces", [1, 7])
def test_chunked_requests(plain: Server, pieces: int) -> None:
    """4.4 Transfer-Encoding: chunked is accepted and put together, however it is cut."""
    data = b"".join(b"%x;ext=1\r\n%b\r\n" % (len(part), part) for part in (b"ab", b"c" * 300))
    data = request("POST", "/predictions/mirror", None, "Transfer-Encoding: chunked") + data
    data += b"0\r\nTrailer: x\r\n\r\n"
    step = -(-len(data) // pieces)
    with connected(plain.ports[0]) as line:
        for start in range(0, len(data), step):
            line.send(data[start : start + step])
        assert line.read().json["row"] == {"body": ["bytearray", "ab" + "c" * 300]}


def test_a_chunked_body_that_is_too_large(plain: Server) -> None:
    """4.9: without a length it is refused as soon as it is too long."""
    head = request("POST", "/predictions/mirror", None, "Transfer-Encoding: chunked")
    with connected(plain.ports[0]) as line:
        line.send(head + b"30d41\r\n" + b"x" * 200_001 + b"\r\n0\r\n\r\n")
        reply = line.read()
    assert reply.status == 413
    assert "raise max_request_size" in reply.json["message"]


def test_a_compressed_body_is_not_unpacked(inference: Ask) -> None:
    """4.7 no gzip: the handler gets the bytes."""
    seen = inference("POST", "/predictions/mirror", b"\x1f\x8b", "Content-Encoding: gzip").json
    assert seen["row"] == {"body": ["bytearray", "\x1f\x8b"]}


# 4.7: what every response carries

ROUTES = [
    pytest.param(0, "POST", "/predictions/mirror", 200, None, id="4.7 a prediction"),
    pytest.param(0, "GET", "/ping", 200, "application/json", id="4.7 ping"),
    pytest.param(0, "OPTIONS", "/", 200, "application/json", id="4.7 a description"),
    pytest.param(0, "GET", "/nowhere", 404, "application/json", id="4.7 an error"),
    pytest.param(1, "GET", "/models", 200, "application/json", id="4.7 management"),
    pytest.param(
        *(2, "GET", "/metrics?name[]=QueueTime", 200),
        "text/plain; version=0.0.4; charset=utf-8",
        id="4.7 metrics",
    ),
]


@pytest.mark.parametrize(("port", "method", "path", "status", "kind"), ROUTES)
def test_headers_of_every_response(
    plain: Server, port: int, method: str, path: str, status: int, kind: str | None
) -> None:
    reply = ask(plain.ports[port], method, path, b"x" if method == "POST" else None)
    assert reply.status == status
    headers = dict(reply.headers)
    assert len(headers) == len(reply.headers)
    assert UUID4.fullmatch(headers.pop("x-request-id"))
    assert headers == {
        **({} if kind is None else {"content-type": kind}),
        **FIXED,
        "content-length": str(len(reply.body)),
        "connection": "keep-alive" if status < 400 else "close",
    }


@pytest.mark.parametrize(("port", "method", "path", "status", "kind"), ROUTES)
def test_cors(
    shared: Server, port: int, method: str, path: str, status: int, kind: str | None
) -> None:
    """4.7 access-control-allow-*: on each, if configured."""
    name = "management" if path == "/models" else "inference"
    token = f"Authorization: Bearer {shared.keys[name]}"
    reply = ask(shared.ports[port], method, path, b"x" if method == "POST" else None, token)
    assert reply.status == status
    assert reply.header("access-control-allow-origin") == "*"
    assert reply.header("access-control-allow-methods") == "GET, POST"
    assert reply.header("access-control-allow-headers") == "X-Mine"


def test_cors_of_the_handler(shared: Server) -> None:
    """2.2 cors_allowed_origin: unless already present."""
    token = f"Authorization: Bearer {shared.keys['management']}"
    assert ask(shared.ports[0], "POST", "/models?url=results.mar&initial_workers=1", None, token)
    wish = json.dumps({"headers": {"Access-Control-Allow-Origin": "me"}}).encode()
    token = f"Authorization: Bearer {shared.keys['inference']}"
    reply = ask(shared.ports[0], "POST", "/predictions/results", wish, token)
    assert reply.header("Access-Control-Allow-Origin") == "me"
    assert reply.header("access-control-allow-origin") is None
    assert reply.header("access-control-allow-methods") == "GET, POST"


def test_each_response_has_an_id_of_its_own(plain: Server) -> None:
    """4.7 x-request-id: a client's is not taken over."""
    with connected(plain.ports[0]) as line:
        ids = set()
        for _ in range(3):
            line.send(request("POST", "/predictions/mirror", b"x", "x-request-id: mine"))
            ids.add(line.read().header("x-request-id"))
    assert len(ids) == 3
    assert "mine" not in ids


def test_a_connection_stays(plain: Server) -> None:
    """4.7 connection: keep-alive below 400, and requests that were sent ahead are answered in
    order."""
    with connected(plain.ports[0]) as line:
        paths = ("/predictions/mirror", "/ping", "/predictions/mirror/2.0", "/predictions/foo")
        line.send(b"".join(request("POST", path, b"x") for path in paths))
        replies = [line.read() for _ in paths]
        assert [reply.status for reply in replies] == [200, 200, 200, 404]
        assert replies[0].json["version"] == "1.0"
        assert replies[2].json["version"] == "2.0"
        connections = [reply.header("connection") for reply in replies]
        assert connections == ["keep-alive"] * 3 + ["close"]
        assert line.ended()


def test_a_clients_connection_close(plain: Server) -> None:
    """4.7 the request's own Connection: close was not considered: mended."""
    with connected(plain.ports[0]) as line:
        line.send(request("GET", "/ping", None, "Connection: close"))
        assert line.read().header("connection") == "close"
        assert line.ended()


@pytest.mark.parametrize("path", ["/ping", "/predictions/mirror", "/predictions/foo"])
def test_head(plain: Server, path: str) -> None:
    """4.2 any method: HEAD gets the head of the answer, and nothing that would be taken for the
    next one's."""
    with connected(plain.ports[0]) as line:
        line.send(request("HEAD", path))
        reply = line.read(bodiless=True)
        assert int(reply.header("content-length") or 0) > 0
        if reply.status == 200:
            line.send(request("GET", "/ping"))
            assert line.read().body == pretty({"status": "Healthy"})


@pytest.mark.parametrize("asked", [False, True])
def test_http_1_0(plain: Server, asked: bool) -> None:
    """HTTP/1.0 closes unless the client asks to keep the connection."""
    keep = b"Connection: keep-alive\r\n" if asked else b""
    with connected(plain.ports[0]) as line:
        line.send(b"GET /ping HTTP/1.0\r\n" + keep + b"\r\n")
        reply = line.read()
        assert reply.body == pretty({"status": "Healthy"})
        assert reply.header("connection") == ("keep-alive" if asked else "close")
        if not asked:
            assert line.ended()


def test_json_is_not_escaped(management: Ask) -> None:
    """4.7 server-generated JSON: indented by two, not HTML-escaped, null fields left out, one line
    feed behind it."""
    reply = management("GET", "/models/%3C%C3%BC%3E")
    assert reply.body == error(404, "ModelNotFoundException", "Model not found: <\u00fc>")
    described = management("GET", "/models/mirror").body
    assert described.startswith(b'[\n  {\n    "modelName": "mirror",\n')
    assert described.endswith(b"\n]\n")
    assert b"null" not in described
