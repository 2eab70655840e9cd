"""The bytes on the line: heads, errors, limits, deadlines (reference §4.5-4.9)."""

from __future__ import annotations

import asyncio
import io
import logging
import socket
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest
from aiohttp.web import BaseRequest

from tests.frontend.http_fakes import Edge, echo, edge, post, talk, until, without_id
from ts_frontend.config import Address
from ts_frontend.core.job import Answer
from ts_frontend.errors import ServiceUnavailable
from ts_frontend.http import connection, draining
from ts_frontend.http.connection import Connection
from ts_frontend.http.response import JOIN_BELOW, RawResponse
from ts_frontend.http.server import BindError, Listener
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


async def test_what_is_not_http_gets_a_json_400() -> None:
    async with edge() as e:
        answer = await talk(e.port, b"\x16\x03\x01garbage\r\n\r\n")
        lines = list(e.logs.access_lines)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert b'"type": "BadRequestException",\n  "message": "Invalid HTTP message."' in answer
    assert len(lines) == 1
    assert '"GET / HTTP/1.' in lines[0]


async def test_a_line_that_is_too_long_gets_a_400() -> None:
    async with edge() as e:
        target = "/predictions/m?" + "x" * 9000
        answer = await talk(e.port, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_malformed_escape_in_the_path_is_a_403() -> None:
    async with edge() as e:
        answer = await talk(e.port, b"GET /ping%zz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"IllegalArgumentException" in answer


async def test_a_body_announced_too_large_is_refused_before_it_comes() -> None:
    request = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
    async with edge(max_request_size=10) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(request)
        # The answer comes although not one byte of the body was sent.
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()
    assert head.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert b"connection: close" in head
    assert not e.inference.calls


@pytest.mark.parametrize("head", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_413_names_the_key_to_raise(head: str) -> None:
    body = b"x" * 11 if "Length" in head else b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
    request = f"POST /predictions/m HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode()
    async with edge(max_request_size=10) as e:
        answer = await talk(e.port, request + body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"raise max_request_size" in answer
        exact = await talk(e.port, post("/predictions/m", b"x" * 10))
        assert exact.startswith(b"HTTP/1.1 200 ")


async def test_a_chunked_body_is_put_together() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunks = (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n")
    async with edge() as e:
        answer = await talk(e.port, head + b"Connection: close\r\n\r\n", *chunks)
    assert answer.endswith(b"\r\n\r\nabcde")


async def test_broken_chunks_are_a_400() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with edge() as e:
        answer = await talk(e.port, head, b"zz\r\nabc\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Invalid HTTP message." in answer


async def test_expect_100_continue_is_honoured_but_not_for_what_is_too_large() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    async with edge(max_request_size=100) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(head + b"Connection: close\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()
        refused = await talk(e.port, head + b"Content-Length: 101\r\n\r\n", b"x" * 101)
    assert refused.startswith(b"HTTP/1.1 413 ")


async def test_large_bodies_go_both_ways() -> None:
    body = bytes(range(256)) * 16384  # 4 MiB: past every buffer on the way
    async with edge() as e, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(e.url("/predictions/m"), data=io.BytesIO(body)) as answer:
                assert await answer.read() == body


async def test_a_body_that_waits_behind_a_slow_request_is_held_back_and_then_read() -> None:
    go = asyncio.Event()

    async def wait(request: Request) -> Answer:
        await go.wait()
        return await echo(request)

    first = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na"
    body = bytes(range(256)) * 32768
    async with edge(behaviour=wait, max_request_size=len(body)) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(first + post("/predictions/m", body))
        (connection,) = await one_connection(e)
        # 8 MiB must not pile up in the server meanwhile.
        await until(lambda: connection._reading_paused)
        go.set()
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert answer.endswith(b"\r\n\r\n" + body)


async def one_connection(e: Edge) -> list[Connection]:
    """The server's side of the only client."""
    web = e.listeners[0]._web
    assert web is not None
    await until(lambda: len(web.connections) == 1)
    return [connection for connection in web.connections if isinstance(connection, Connection)]


@pytest.mark.parametrize("size", [1, JOIN_BELOW])
async def test_a_response_waits_for_a_slow_client(size: int) -> None:
    written: list[bytes] = []
    drained = asyncio.Event()
    transport = SimpleNamespace(
        write=written.append, writelines=written.extend, get_write_buffer_size=lambda: size
    )
    protocol = SimpleNamespace(_paused=False)
    request = SimpleNamespace(
        transport=transport, protocol=protocol, writer=SimpleNamespace(drain=drained.wait)
    )
    response = RawResponse(200, b"head", b"x" * size, keep_alive=True)
    await response.prepare(cast(BaseRequest, request))
    assert b"".join(written) == b"head" + b"x" * size
    protocol._paused = True
    writing = asyncio.create_task(response.prepare(cast(BaseRequest, request)))
    await until(lambda: len(b"".join(written)) == 2 * (size + 4))
    assert not writing.done()
    drained.set()
    await writing


async def test_pipelined_small_answers_do_not_pile_up_for_who_does_not_read() -> None:
    count = 3000
    one = b"GET /api-description HTTP/1.1\r\nHost: x\r\n\r\n"
    async with edge() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port, limit=1024)
        writer.write(one * count + one.replace(b"x", b"x\r\nConnection: close"))
        (connection,) = await one_connection(e)
        await until(lambda: connection._drain_waiter is not None)
        answered = len(e.logs.access_lines)
        assert answered < count
        # Read on: nothing is lost.
        said = await asyncio.wait_for(reader.read(), 10)
        writer.close()
    assert said.count(b"HTTP/1.1 200 OK\r\n") == count + 1


@pytest.mark.parametrize("body", [b"", b"x" * (32 << 20)], ids=["small", "large"])
async def test_a_client_that_stops_reading_is_cut_off(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(request: Request) -> Answer:
        return Answer(200, "", b"", body)

    monkeypatch.setattr("ts_frontend.http.response.WRITE_SECONDS", 0.05)
    path = b"/predictions/m" if body else b"/api-description"
    one = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    async with edge(behaviour=answer) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port, limit=1024)
        writer.write(one * (1 if body else 3000))
        (connection,) = await one_connection(e)
        await until(lambda: not e.listeners[0]._web.connections)
        assert connection.transport is None
        writer.transport.abort()


async def test_a_client_that_reads_slowly_is_not_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_frontend.http.response.WRITE_SECONDS", 0.001)
    left = iter([400, 300, 200, 100, 100])
    aborted = asyncio.Event()
    transport = SimpleNamespace(
        write=lambda data: None, get_write_buffer_size=lambda: next(left), abort=aborted.set
    )
    request = SimpleNamespace(
        transport=transport,
        protocol=SimpleNamespace(_paused=True),
        writer=SimpleNamespace(drain=aborted.wait),
    )
    await RawResponse(200, b"head", b"", keep_alive=True).prepare(cast(BaseRequest, request))
    assert list(left) == []


async def test_an_unread_body_does_not_disturb_the_next_request() -> None:
    first = b"POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /"
    async with edge() as e:
        answer = await talk(e.port, first, post("/predictions/m", b"ok"))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith(b"\r\n\r\nok")


async def test_a_head_that_never_ends_is_given_up() -> None:
    def hurry(listener: Listener) -> None:
        listener._head_timeout = 0.1

    async with edge(tune=hurry) as e:
        assert await talk(e.port, b"GET /ping HTTP/1.1\r\nHost:") == b""


async def test_half_a_head_that_comes_with_the_connection_is_given_up() -> None:
    """It is here before the server has begun to wait for it, which uvloop shows."""

    def hurry(listener: Listener) -> None:
        listener._head_timeout = 0.1

    async with edge(tune=hurry) as e:
        with socket.create_connection(("127.0.0.1", e.port)) as early:
            early.sendall(b"GE")
            early.setblocking(False)
            loop = asyncio.get_running_loop()
            assert await asyncio.wait_for(loop.sock_recv(early, 1), 10) == b""


async def test_a_client_that_says_nothing_is_given_up() -> None:
    def hurry(listener: Listener) -> None:
        listener._head_timeout = 0.1

    async with edge(tune=hurry) as e:
        assert await talk(e.port) == b""


async def test_the_time_for_a_head_is_not_that_between_requests() -> None:
    async with edge() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        for _ in range(2):
            writer.write(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"}\n")
            (connection,) = e.listeners[0]._web.connections
            connection.expire(time.monotonic() + 1000)
        writer.close()


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


async def test_an_idle_connection_is_closed_after_the_keep_alive_time() -> None:
    def hurry(listener: Listener) -> None:
        listener._keep_alive = 0.1

    async with edge(tune=hurry) as e:
        answer = await talk(e.port, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"connection: keep-alive" in answer


async def test_a_body_that_stops_coming_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    async with edge() as e:
        face = e.listeners[0]._router._faces[1]
        monkeypatch.setattr(face._bodies, "_idle", 0.05)
        head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(head + b"ab")
        answer = await reader.readuntil(b"\n}\n")
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b'"type": "RequestTimeoutException"' in answer


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


async def test_stopping_answers_what_is_under_way_and_accepts_nothing_more() -> None:
    go = asyncio.Event()

    async def wait(request: Request) -> Answer:
        await go.wait()
        return Answer(200, "", b"", b"late")

    async with edge(behaviour=wait) as e:
        port = e.port
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        await until(lambda: bool(e.inference.calls))
        stop = asyncio.create_task(e.listeners[0].stop(grace=10))
        # At once, not when the grace is over.
        assert await asyncio.wait_for(idle_reader.read(), 5) == b""
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert not stop.done()
        go.set()
        answer = await reader.read()
        await stop
        writer.close()
        idle_writer.close()
    assert answer.endswith(b"\r\n\r\nlate")


async def test_stopping_does_not_wait_longer_than_its_grace() -> None:
    async def endless(request: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with edge(behaviour=endless) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m"))
        await until(lambda: bool(e.inference.calls))
        grace, begun = 1.5, time.monotonic()
        await e.listeners[0].stop(grace=grace)
        assert grace <= time.monotonic() - begun < grace + 1.5
        assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


HALF = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"


async def half_sent(e: Edge) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request but for the end of its body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
    writer.write(HALF)
    connections = e.listeners[0]._web.connections
    await until(lambda: any(draining.unfinished_body(one) for one in connections))
    return reader, writer


async def test_stopping_takes_the_rest_of_a_request() -> None:
    async with edge() as e:
        reader, writer = await half_sent(e)
        stop = asyncio.create_task(e.listeners[0].stop(grace=20))
        await until(lambda: e.listeners[0]._draining)
        await asyncio.sleep(0)
        writer.write(b"cd")
        assert (await reader.read()).endswith(b"\r\n\r\nabcd")
        await asyncio.wait_for(stop, 2)
        writer.close()


@pytest.mark.parametrize("limit", ["IDLE_SECONDS", "SENDING_SECONDS"])
async def test_stopping_waits_for_no_client_that_does_not_get_on(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draining, limit, 0.1)
    async with edge() as e:
        reader, writer = await half_sent(e)
        begun = time.monotonic()
        await e.listeners[0].stop(grace=20)
        assert time.monotonic() - begun < 2.5
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"does not wait for the rest of this request" in answer
        writer.close()


async def test_stopping_waits_for_no_client_that_does_not_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(draining, "IDLE_SECONDS", 0.1)

    async def long(request: Request) -> Answer:
        return Answer(200, "", b"", bytes(64 << 20))

    async with edge(behaviour=long) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port, limit=1)
        writer.write(post("/predictions/m"))
        await until(lambda: bool(e.inference.calls))
        begun = time.monotonic()
        await e.listeners[0].stop(grace=20)
        assert time.monotonic() - begun < 3
        writer.close()


async def test_stopping_gives_the_full_grace_to_who_waits_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("IDLE_SECONDS", "SENDING_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(draining, limit, 0.01)
    go = asyncio.Event()

    async def wait(request: Request) -> Answer:
        await go.wait()
        return await echo(request)

    async with edge(behaviour=wait) as e:
        asked = asyncio.create_task(talk(e.port, post("/predictions/m", b"late")))
        await until(lambda: bool(e.inference.calls))
        stop = asyncio.create_task(e.listeners[0].stop(grace=20))
        asyncio.get_running_loop().call_later(0.3, go.set)
        assert (await asked).endswith(b"\r\n\r\nlate")
        await stop


async def test_a_keep_alive_client_is_told_that_the_server_drains() -> None:
    async with edge() as e:
        e.listeners[0]._draining = True
        answer = await talk(e.port, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"HTTP/1.1 200 OK" in answer
    assert b"connection: close\r\n" in answer


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


async def test_an_address_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"Cannot listen on http://127.0.0.1:{port}: .*in use"):
            async with edge(inference_address=Address("http", "127.0.0.1", port)):
                pass


async def test_a_unix_socket_serves_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address("unix", "", 0, str(path))

    async def ask(body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(post("/predictions/m", body))
        answer = await reader.read()
        writer.close()
        return answer

    async with edge(inference_address=address) as e:
        assert (await ask(b"hello")).endswith(b"\r\n\r\nhello")
        assert e.logs.access_lines[0].startswith('127.0.0.1 "POST ')
        with pytest.raises(BindError, match="Another server listens there"):
            async with edge(inference_address=address):
                pass
        # The second server only looked: the first goes on, and has seen that connection end.
        assert (await ask(b"again")).endswith(b"\r\n\r\nagain")
        await until(lambda: not e.listeners[0]._web.connections)
    assert not path.exists()


async def test_a_socket_file_left_by_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with edge(inference_address=Address("unix", "", 0, str(path))):
        assert path.is_socket()


async def test_a_file_in_the_place_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="There is a file of that name"):
        async with edge(inference_address=Address("unix", "", 0, str(path))):
            pass
    assert path.read_text() == "precious"
