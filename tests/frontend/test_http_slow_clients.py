"""Clients that send or read slowly, or not at all: held back, waited for, and given up."""

from __future__ import annotations

import asyncio
import socket
import time
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp.web import BaseRequest

from tests.frontend.http_fakes import Edge, echo, edge, post, talk, until
from ts_frontend.core.job import Answer
from ts_frontend.http.connection import Connection
from ts_frontend.http.response import JOIN_BELOW, RawResponse
from ts_frontend.http.server import Listener
from ts_worker.messages import Request


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
