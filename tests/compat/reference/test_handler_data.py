"""What a handler gets and what becomes of what it returns, by the tables 4.4, 4.5 and 4.6.

Not here: the headers of sequence batching (8.7), which come with later work.
"""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch

from tests.compat.reference.conftest import Ask
from tests.compat.reference.wire import FIXED, ask, connected, error, request
from tests.e2e.conftest import Server, until

pytestmark = pytest.mark.e2e

BOUNDARY = "Content-Type: multipart/form-data; boundary=b"


def part(name: str, value: str, extra: str = "", kind: str | None = None) -> str:
    """One part of a form."""
    declared = "" if kind is None else f"\r\nContent-Type: {kind}"
    head = f'Content-Disposition: form-data; name="{name}"{extra}{declared}'
    return f"--b\r\n{head}\r\n\r\n{value}\r\n"


def form(*parts: str) -> bytes:
    return "".join([*parts, "--b--\r\n"]).encode()


# 4.4: bodies


@pytest.mark.parametrize(
    ("kind", "body", "row"),
    [
        pytest.param(
            *("text/plain", "gr\u00fc\u00df", {"body": ["str", "gr\u00fc\u00df"]}),
            id="4.4 text is str",
        ),
        pytest.param("text", "a", {"body": ["str", "a"]}, id="4.4 starts with text"),
        pytest.param(
            *("text/csv; charset=latin-1", "a", {"body": ["str", "a"]}), id="4.4 parameters go"
        ),
        pytest.param("TEXT/plain", "a", {"body": ["bytearray", "a"]}, id="4.4 case counts"),
        pytest.param(
            "application/json", '{"a": [1]}', {"body": ["dict", {"a": [1]}]}, id="4.4 json"
        ),
        pytest.param("application/json", "3", {"body": ["int", 3]}, id="4.4 json of any kind"),
        pytest.param(
            *("application/json;charset=utf-8", "[1]", {"body": ["list", [1]]}),
            id="4.4 json with a charset",
        ),
        pytest.param(
            *("application/json ; charset=utf-8", "[1]", {"body": ["bytearray", "[1]"]}),
            id="4.4 the type is not trimmed",
        ),
        pytest.param(
            *("Application/json", "[1]", {"body": ["bytearray", "[1]"]}),
            id="4.4 json of another case",
        ),
        pytest.param(
            *("application/json", "{a", {"body": ["bytearray", "{a"]}),
            id="4.4 json that is none stays raw",
        ),
        pytest.param("application/json", "", {"body": ["bytearray", ""]}, id="4.4 empty json"),
        pytest.param("image/png", "a", {"body": ["bytearray", "a"]}, id="4.4 anything else"),
        pytest.param(None, "a", {"body": ["bytearray", "a"]}, id="4.4 no content type"),
        pytest.param(None, None, {"body": ["bytearray", ""]}, id="4.4 body is always present"),
        pytest.param(
            "multipart/form-data", "a", {"body": ["bytearray", "a"]}, id="4.4 no boundary is raw"
        ),
        pytest.param(
            *("multipart/mixed; boundary=b", "a", {"body": ["bytearray", "a"]}),
            id="4.4 other multipart is raw",
        ),
        pytest.param(
            *("application/x-www-form-urlencoded", "a=1&b=x+y%26&c"),
            {"a": ["bytearray", "1"], "b": ["bytearray", "x y&"], "c": ["bytearray", ""]},
            id="4.4 urlencoded",
        ),
        pytest.param(
            *("APPLICATION/X-WWW-form-urlencoded; charset=utf-8", "a=1&a=2"),
            {"a": ["bytearray", "2"]},
            id="4.4 urlencoded of any case, the last counts",
        ),
    ],
)
def test_bodies(inference: Ask, kind: str | None, body: str | None, row: dict[str, Any]) -> None:
    headers = () if kind is None else (f"Content-Type: {kind}",)
    data = None if body is None else body.encode()
    seen = inference("POST", "/predictions/mirror", data, *headers).json
    assert seen["row"] == row
    if list(row) == ["body"]:
        declared = "" if kind is None else kind.partition(";")[0]
        assert seen["headers"]["body"] == {"content-type": declared}
    else:
        assert all(seen["headers"][name] == {"content-type": ""} for name in row)


@pytest.mark.parametrize("kind", ["application/json", "text/plain"])
def test_decoding_is_off(shared: Server, kind: str) -> None:
    """4.4 governed by decode_input_request: otherwise bytearray; the type is told all the same."""
    headers = (f"Authorization: Bearer {shared.keys['inference']}", f"Content-Type: {kind}")
    seen = ask(shared.ports[0], "POST", "/predictions/mirror", b"{}", *headers).json
    assert seen["row"] == {"body": ["bytearray", "{}"]}
    assert seen["headers"]["body"] == {"content-type": kind}


def test_text_that_is_not_utf8_stays_raw(inference: Ask) -> None:
    """4.4 ct starts with text: on failure raw bytearray."""
    seen = inference("POST", "/predictions/mirror", b"\xff", "Content-Type: text/plain").json
    assert seen["row"] == {"body": ["bytearray", "\xff"]}


@pytest.mark.parametrize(
    ("one", "value", "kind"),
    [
        pytest.param(
            part("a", "{}", '; filename="f"', "application/json; charset=utf-8"),
            ["dict", {}],
            "application/json",
            id="4.4 part with filename",
        ),
        pytest.param(
            part("a", "x", '; filename="f"'),
            ["bytearray", "x"],
            "application/octet-stream",
            id="4.4 part with filename, no type",
        ),
        pytest.param(
            part("a", "x", '; filename="f"', "text/plain"),
            ["str", "x"],
            "text/plain",
            id="4.4 text part with filename",
        ),
        pytest.param(
            part("a", "{}", "", "application/json"),
            ["bytearray", "{}"],
            "",
            id="4.4 part without filename",
        ),
        pytest.param(
            part("a", "1") + part("a", "2", '; filename="f"', "text/plain"),
            ["str", "2"],
            "text/plain",
            id="4.4 the later part counts",
        ),
        pytest.param(
            part("a", "", '; filename=""', "image/png"),
            ["bytearray", ""],
            "image/png",
            id="4.4 an empty file",
        ),
    ],
)
def test_parts(inference: Ask, one: str, value: list[Any], kind: str) -> None:
    seen = inference("POST", "/predictions/mirror", form(one), BOUNDARY).json
    assert seen["row"] == {"a": value}
    assert seen["headers"]["a"] == {"content-type": kind}


@pytest.mark.parametrize(
    ("path", "passed"),
    [
        pytest.param("/predictions/mirror", False, id="4.4 query of predictions"),
        pytest.param("/explanations/mirror", False, id="4.4 query of explanations"),
        pytest.param("/v1/models/mirror:predict", False, id="4.4 query of v1"),
        pytest.param("/v2/models/mirror/infer", False, id="4.4 query of v2"),
        pytest.param("/invocations", True, id="4.4 query of invocations"),
        pytest.param("/models/mirror/invoke", True, id="4.4 query of invoke"),
        pytest.param("/mirror/predict", True, id="4.4 query of legacy"),
    ],
)
def test_queries(inference: Ask, path: str, passed: bool) -> None:
    """The query comes before the body, whose field of the same name wins."""
    target = f"{path}?model_name=mirror&q=a+b%2B;z=1&body=no"
    seen = inference("POST", target, b"yes", "Content-Type: text/plain").json
    expected: dict[str, Any] = {"body": ["str", "yes"]}
    if passed:
        expected |= {"model_name": ["bytearray", "mirror"], "q": ["bytearray", "a b+"]}
        expected |= {"z": ["bytearray", "1"]}
        assert list(seen["row"]) == ["model_name", "q", "z", "body"]
        assert seen["headers"]["q"] == {"content-type": ""}
    assert seen["row"] == expected


def test_headers(inference: Ask) -> None:
    """4.4 headers: first the inputs, then what was sent in its own case, the last of a name;
    explain and url_path are the server's."""
    reply = inference(
        *("POST", "/predictions/mirror/1.0/up", b"x", "X-mIxed: 1", "x-double: 1", "x-double: 2"),
        *("explain: mine", "url_path: mine", "x-request-id: mine"),
    )
    assert list(reply.json["headers"].items()) == [
        ("body", {"content-type": ""}),
        ("Host", "there"),
        ("X-mIxed", "1"),
        ("x-double", "2"),
        ("explain", "False"),
        ("url_path", "up"),
        ("x-request-id", "mine"),
        ("Content-Length", "1"),
    ]


def test_the_request_id_of_handler_and_client(inference: Ask) -> None:
    """4.4 context.request_ids: by batch index, the same UUID that the client gets."""
    reply = inference("POST", "/predictions/mirror", b"x")
    assert reply.json["id"] == reply.header("x-request-id")
    assert reply.json["request_ids"] == {"0": reply.header("x-request-id")}


def test_describe_gives_an_empty_row_and_its_mark(management: Ask) -> None:
    """4.4 describe: the row is {} and there is no explain."""
    (described,) = management("GET", "/models/mirror?customized=true").json
    seen = described["customizedMetadata"]
    assert seen["row"] == {}
    assert seen["headers"] == {"describe": "True"}


# 4.5: results


def tensor_bytes() -> bytes:
    stream = io.BytesIO()
    torch.save(torch.arange(3), stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("command", "body"),
    [
        pytest.param("bytes", b"\x00\xff", id="4.5 bytes"),
        pytest.param("bytearray", b"\x01", id="4.5 bytearray"),
        pytest.param("str", "gr\u00fc\u00df".encode(), id="4.5 str"),
        pytest.param("tensor", tensor_bytes(), id="4.5 tensor"),
        pytest.param(
            *("dict", json.dumps({"a": [1, 2.5, None, True], "\u00fc": float("nan")}, indent=2)),
            id="4.5 other",
        ),
        pytest.param("number", "1e-05", id="4.5 other number"),
        pytest.param("none", "null", id="4.5 other None"),
        pytest.param("empty", "[]", id="4.5 other empty list"),
    ],
)
def test_results(inference: Ask, command: str, body: bytes | str) -> None:
    """200 without a phrase and without a content type, whatever the handler returns."""
    reply = inference("POST", "/predictions/results", command.encode())
    expected = body.encode() if isinstance(body, str) else body
    assert (reply.line, reply.body) == ("HTTP/1.1 200 ", expected)
    assert [name for name, _ in reply.headers] == [
        *("x-request-id", *FIXED, "content-length", "connection")
    ]


@pytest.mark.parametrize(
    ("wish", "line", "headers", "connection"),
    [
        pytest.param(
            *({"status": 201, "phrase": "Well Done"}, "HTTP/1.1 201 Well Done", {}, "keep-alive"),
            id="4.5 status and phrase",
        ),
        pytest.param({"status": 202}, "HTTP/1.1 202 ", {}, "keep-alive", id="4.5 no phrase"),
        pytest.param({"status": 302}, "HTTP/1.1 302 ", {}, "keep-alive", id="4.5 3xx"),
        pytest.param({"status": 418}, "HTTP/1.1 418 ", {}, "close", id="4.5 4xx closes"),
        pytest.param({"status": 503}, "HTTP/1.1 503 ", {}, "close", id="4.5 5xx closes"),
        pytest.param(
            *({"type": "image/png"}, "HTTP/1.1 200 ", {"content-type": "image/png"}, "keep-alive"),
            id="4.5 content type",
        ),
        pytest.param(
            {"headers": {"X-One": "1", "content-type": "a/b", "x-two": "\u00fc"}},
            "HTTP/1.1 200 ",
            {"X-One": "1", "content-type": "a/b", "x-two": "\u00fc"},
            "keep-alive",
            id="4.5 headers",
        ),
    ],
)
def test_what_the_handler_sets(
    inference: Ask, wish: dict[str, Any], line: str, headers: dict[str, str], connection: str
) -> None:
    """The handler's body stays its own, whatever the status."""
    wish = {**wish, "body": "mine"}
    reply = inference("POST", "/predictions/results", json.dumps(wish).encode())
    assert (reply.line, reply.body) == (line, b"mine")
    assert dict(reply.headers).items() >= {**headers, **FIXED, "connection": connection}.items()
    if "content-type" not in headers:
        assert reply.header("content-type") is None


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        pytest.param("prediction", 404, "no such endpoint", id="4.5 PredictionException code"),
        pytest.param("prediction without a code", 500, "cannot", id="4.5 PredictionException"),
        pytest.param("prediction 413", 507, "too much", id="4.5 413 becomes 507"),
        pytest.param("memory", 507, "Out of resources", id="4.5 MemoryError"),
        pytest.param("cuda", 507, "Out of resources", id="4.5 CUDA in the text"),
        pytest.param("value", 503, "Prediction failed", id="4.5 any other exception"),
        pytest.param("tuple", 503, "Invalid model predict output", id="4.5 not a list"),
        pytest.param(
            *("short", 503, "number of batch response mismatched"), id="4.5 wrong list length"
        ),
        pytest.param(
            *("object", 503, "Unsupported model output data type."), id="4.5 not serialisable"
        ),
    ],
)
def test_handlers_that_fail(
    plain: Server, inference: Ask, command: str, status: int, message: str
) -> None:
    """The error's shape with InternalServerException; the worker lives on."""
    pid = plain.workers("raises")[0]["pid"]
    reply = inference("POST", "/predictions/raises", command.encode())
    assert (reply.status, reply.body) == (status, error(status, "InternalServerException", message))
    assert reply.header("connection") == "close"
    assert plain.workers("raises")[0]["pid"] == pid


# 4.6: streams


def test_a_stream(plain: Server) -> None:
    """4.6 first message, middle, last: one chunk each, and the connection stays."""
    with connected(plain.ports[0]) as line:
        for _ in range(2):
            line.send(request("POST", "/predictions/stream", b"2"))
            reply = line.read()
            assert reply.line == "HTTP/1.1 200 "
            assert reply.chunks == (b"part 0\n", b"part 1\n", b"end\n")
            assert [name for name, _ in reply.headers] == [
                *("ts_stream_next", "x-request-id", *FIXED, "transfer-encoding", "connection")
            ]
            assert reply.header("ts_stream_next") == "true"
            assert reply.header("connection") == "keep-alive"


def test_an_error_after_the_stream_began(plain: Server) -> None:
    """4.6 the connection is closed mid-body: no last chunk, no JSON."""
    with connected(plain.ports[0]) as line:
        line.send(request("POST", "/predictions/stream", b"fail"))
        said = line.rest()
    assert said.endswith(b"\r\n\r\n7\r\npart 0\n\r\n")


def test_a_stream_of_one_message(inference: Ask) -> None:
    """4.6 a first and only message with false: TorchServe never wrote it correctly. Mended."""
    reply = inference("POST", "/predictions/stream", b"only")
    assert (reply.line, reply.body) == ("HTTP/1.1 200 ", b"only\n")
    assert reply.header("ts_stream_next") == "false"


def test_a_stream_in_http_1_0(plain: Server) -> None:
    """4.6 chunks are HTTP/1.1's: before it the end of the connection ends the body."""
    with connected(plain.ports[0]) as line:
        line.send(b"POST /predictions/stream HTTP/1.0\r\nContent-Length: 1\r\n\r\n1")
        reply = line.read()
        assert reply.header("transfer-encoding") is None
        assert reply.body == b"part 0\nend\n"


def test_a_stream_is_logged_at_its_first_chunk(plain: Server, inference: Ask) -> None:
    """4.6 access log and request counters: one line."""
    inference("POST", "/predictions/stream?once", b"3")
    until(lambda: "/predictions/stream?once " in plain.log("access_log"))
    assert plain.log("access_log").count("/predictions/stream?once ") == 1
