"""The bytes on the line: heads, answers, errors (reference §4.5-4.9)."""

from __future__ import annotations

import asyncio
import logging
import socket

import pytest

from tests.frontend.http_fakes import edge, post, talk, until, without_id
from ts_frontend.core.job import Answer
from ts_frontend.errors import ServiceUnavailable
from ts_frontend.http import connection
from ts_worker.messages import Request, pack_headers

FIXED = (
    b"x-request-id: ID\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache; no-store, must-revalidate, private\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)


async def test_a_prediction_has_no_phrase_and_no_content_type() -> None:
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b"hello"))
    assert without_id(answer) == (
        b"HTTP/1.1 200 \r\n" + FIXED + b"content-length: 5\r\nconnection: close\r\n\r\nhello"
    )


async def test_the_handler_chooses_status_phrase_and_headers() -> None:
    async def odd(request: Request) -> Answer:
        headers = [("content-type", "text/plain"), ("X-Mine", "1"), ("Content-Length", "99")]
        return Answer(201, "Made", pack_headers(headers), b"x")

    async with edge(behaviour=odd) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert without_id(answer) == (
        b"HTTP/1.1 201 Made\r\ncontent-type: text/plain\r\nX-Mine: 1\r\n"
        + FIXED
        + b"content-length: 1\r\nconnection: close\r\n\r\nx"
    )


async def test_an_error_is_pretty_json_and_closes() -> None:
    async with edge() as e:
        answer = await talk(e.port, b"GET /predictions/foo HTTP/1.1\r\nHost: x\r\n\r\n")
    body = (
        b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n'
        b'  "message": "Model not found: foo"\n}\n'
    )
    assert without_id(answer) == (
        b"HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n"
        + FIXED
        + b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        + body
    )


@pytest.mark.parametrize("known", [True, False], ids=["our loop", "aiohttp's loop"])
async def test_a_connection_is_kept_and_answers_pipelined_requests_in_order(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_KNOWN", known)
    one = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
    async with edge() as e:
        answer = await talk(e.port, one + b"a" + one + b"b", post("/predictions/m", b"c"))
    kept = b"HTTP/1.1 200 \r\n" + FIXED + b"content-length: 1\r\nconnection: keep-alive\r\n\r\n"
    last = kept.replace(b"keep-alive", b"close")
    assert without_id(answer) == kept + b"a" + kept + b"b" + last + b"c"


async def test_a_handlers_error_status_keeps_its_body_but_closes() -> None:
    async def refuse(request: Request) -> Answer:
        return Answer(422, "", b"", b"no")

    one = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    async with edge(behaviour=refuse) as e:
        answer = await talk(e.port, one)
    assert answer.startswith(b"HTTP/1.1 422 \r\n")
    assert answer.endswith(b"content-length: 2\r\nconnection: close\r\n\r\nno")


async def test_http_1_0_closes_unless_asked_to_stay() -> None:
    async with edge() as e:
        plain = await talk(e.port, b"GET /ping HTTP/1.0\r\n\r\n")
        asked = b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        both = await talk(e.port, asked, b"GET /ping HTTP/1.0\r\n\r\n")
    assert b"connection: close\r\n" in plain
    assert both.count(b"connection: keep-alive\r\n") == 1
    assert both.count(b"connection: close\r\n") == 1


@pytest.mark.parametrize("path", ["/ping", "/predictions/m", "/nowhere"])
async def test_head_has_a_length_but_no_body(path: str) -> None:
    request = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
    async with edge() as e:
        answer = await talk(e.port, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b""
    assert b"content-length: " in head


async def test_a_204_has_neither_body_nor_length() -> None:
    async def nothing(request: Request) -> Answer:
        return Answer(204, "", b"", b"ignored")

    async with edge(behaviour=nothing) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert b"content-length" not in answer
    assert answer.endswith(b"connection: close\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        Answer(200, "", pack_headers([("X", "a\r\nSet-Cookie: b")]), b""),
        Answer(200, "", pack_headers([("X A:", "v")]), b""),
        Answer(200, "", pack_headers([("", "v")]), b""),
        Answer(200, "a\r\nb", b"", b""),
        Answer(99, "", b"", b""),
        Answer(1000, "", b"", b""),
    ],
)
async def test_a_head_that_cannot_be_sent_is_refused(answer: Answer) -> None:
    async def odd(request: Request) -> Answer:
        return answer

    async with edge(behaviour=odd) as e:
        said = await talk(e.port, post("/predictions/m"))
    assert said.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"Set-Cookie" not in said
    assert b"The handler set" in said


async def test_a_malformed_escape_in_the_path_is_a_403() -> None:
    async with edge() as e:
        answer = await talk(e.port, b"GET /ping%zz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"IllegalArgumentException" in answer


@pytest.mark.parametrize("known", [True, False], ids=["our loop", "aiohttp's loop"])
async def test_requests_without_a_host_are_answered(
    known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_KNOWN", known)
    body = b"GET /x HTTP/1.1\r\n\r\n"
    async with edge() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        for head in (b"", b"X-Host: y\r\n", b"HOST: z\r\n"):
            writer.write(b"GET /ping HTTP/1.1\r\n" + head + b"\r\n")
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 ")
        # What only looks like a request is the body of one.
        head = b"POST /predictions/m HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head)
        await until(lambda: any(one._current_request for one in e.listeners[0]._web.connections))
        writer.write(body)
        assert (await reader.readuntil(body)).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_request_without_a_host_that_comes_with_the_connection_is_answered() -> None:
    async with edge() as e:
        with socket.create_connection(("127.0.0.1", e.port)) as early:
            early.sendall(b"GET /ping HTTP/1.1\r\n\r\n")
            early.setblocking(False)
            loop = asyncio.get_running_loop()
            answer = await asyncio.wait_for(loop.sock_recv(early, 99), 10)
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_the_rest_of_a_head_is_taken_for_no_request() -> None:
    async with edge() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        for _ in range(2):
            writer.write(b"GET /ping HTTP/1.1\r\nHost: x\r\nX: ")
            await until(
                lambda: any(
                    one._head_since and not one._silent for one in e.listeners[0]._web.connections
                )
            )
            writer.write(b"GET /x HTTP/1.1\r\nY: z\r\n\r\n")
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_bug_is_a_500_without_details_and_a_log_entry(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def bug(request: Request) -> Answer:
        raise KeyError("secret")

    async with edge(behaviour=bug) as e:
        with caplog.at_level(logging.ERROR, "ts_frontend.http"):
            answer = await talk(e.port, post("/predictions/m"))
        assert e.logs.access_lines[0].rsplit(" ", 1)[0].endswith("500")
    assert answer.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert b"InternalServerException" in answer
    assert b"secret" not in answer
    assert "KeyError: 'secret'" in caplog.text


async def test_a_timeout_error_of_ours_is_a_bug_like_any_other() -> None:
    async def bug(request: Request) -> Answer:
        raise TimeoutError

    async with edge(behaviour=bug) as e:
        assert (await talk(e.port, post("/predictions/m"))).startswith(b"HTTP/1.1 500 ")


async def test_an_error_of_the_core_keeps_status_type_and_text() -> None:
    async def full(request: Request) -> Answer:
        raise ServiceUnavailable('Model "m" is busy: später')

    async with edge(behaviour=full) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    text = '"message": "Model \\"m\\" is busy: später"'
    assert text.encode() in answer


async def test_a_client_that_goes_away_cancels_its_prediction() -> None:
    ended: list[str] = []

    async def slow(request: Request) -> Answer:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        raise AssertionError

    async with edge(behaviour=slow) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m", b"x"))
        await until(lambda: bool(e.inference.calls))
        writer.close()
        await until(lambda: bool(ended))
        assert e.logs.access_lines == []


async def test_the_access_log_has_torchserves_line() -> None:
    async with edge() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        own = writer.get_extra_info("sockname")[1]
        writer.write(post("/predictions/m?a=1", b"x"))
        await reader.read()
        writer.close()
        line = e.logs.access_lines[0]
        remote, rest = line.split(" ", 1)
        assert remote == f"/127.0.0.1:{own}"
        request, milliseconds = rest.rsplit(" ", 1)
        assert request == '"POST /predictions/m?a=1 HTTP/1.1" 200'
        assert 0 <= int(milliseconds) < 5000


async def test_each_response_is_counted_by_its_class() -> None:
    async with edge() as e:
        await talk(e.port, post("/predictions/m"))
        await talk(e.port, post("/predictions/none"))
        e.inference.well = False
        await talk(e.port, post("/ping"))
        text = e.recorder.render(["Requests2XX", "Requests4XX", "Requests5XX"]).decode()
    for kind in ("2XX", "4XX", "5XX"):
        assert f'Requests{kind}{{Level="Host",Hostname="here",}} 1.0\n' in text


async def test_cors_headers_are_added_unless_the_handler_has_its_own() -> None:
    async def own(request: Request) -> Answer:
        headers = [("Access-Control-Allow-Origin", "mine")] if request.params[0].value else []
        return Answer(200, "", pack_headers(headers), b"")

    async with edge(behaviour=own, cors_allowed_origin="*", cors_allowed_methods="GET, PUT") as e:
        plain = await talk(e.port, post("/predictions/m"))
        chosen = await talk(e.port, post("/predictions/m", b"x"))
        error = await talk(e.port, post("/predictions/none"))
    both = b"access-control-allow-origin: *\r\naccess-control-allow-methods: GET, PUT\r\n"
    assert both in plain
    assert both in error
    assert b"access-control-allow-origin: *" not in chosen
    assert b"Access-Control-Allow-Origin: mine\r\n" in chosen
    assert b"access-control-allow-methods: GET, PUT\r\n" in chosen
