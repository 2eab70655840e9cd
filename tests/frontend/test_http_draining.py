"""A server that stops: what is under way is answered, and nobody is waited for in vain."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import pytest
from aiohttp.web import RequestHandler

from tests.frontend.http_fakes import Edge, echo, edge, post, talk, until
from ts_frontend.core.job import Answer
from ts_frontend.http import draining
from ts_worker.messages import Request

HALF = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nab"


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
        # Nothing else keeps its client from sending another request on this connection.
        assert b"connection: close\r\n" in answer
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
        await until(lambda: e.listeners[0]._respond._ending)
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


async def long(request: Request) -> Answer:
    return Answer(200, "", b"", bytes(64 << 20))


@pytest.mark.parametrize("blind", [False, True])
async def test_stopping_waits_for_no_client_that_does_not_read(
    blind: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if blind:
        monkeypatch.setattr(draining, "_in_kernel", lambda transport: None)
    monkeypatch.setattr(draining, "BLIND_SECONDS" if blind else "IDLE_SECONDS", 0.1)
    async with edge(behaviour=long) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port, limit=1)
        writer.write(post("/predictions/m"))
        await until(lambda: bool(e.inference.calls))
        begun = time.monotonic()
        await e.listeners[0].stop(grace=20)
        assert time.monotonic() - begun < 3
        writer.close()


async def test_who_reads_slowly_gets_on_long_before_the_server_can_write_more() -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells what its kernel has left to send")
    async with edge(behaviour=long) as e:
        loop = asyncio.get_running_loop()
        with socket.create_connection(("127.0.0.1", e.port)) as client:
            client.setblocking(False)
            await loop.sock_sendall(client, post("/predictions/m"))
            await until(lambda: bool(e.inference.calls))
            (connection,) = e.listeners[0]._web.connections
            before = await _stuck(connection)
            for _ in range(4):
                await loop.sock_recv(client, 64 << 10)
            await until(lambda: draining._standing(connection) != before)
            now = draining._standing(connection)
            assert now is not None
            assert now.unread == before.unread
            assert now.in_kernel is not None


async def _stuck(connection: RequestHandler) -> draining._Standing:
    """How far a client has got that reads nothing, once nothing moves any more."""
    before = None
    while (now := draining._standing(connection)) is None or now != before:
        before = now
        await asyncio.sleep(0.05)
    return now


async def test_stopping_gives_the_full_grace_to_who_waits_for_an_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for limit in ("IDLE_SECONDS", "BLIND_SECONDS", "SENDING_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(draining, limit, 0.01)
    looks: list[draining._Standing | None] = []
    look = draining._standing

    def counted(connection: RequestHandler) -> draining._Standing | None:
        looks.append(look(connection))
        return looks[-1]

    monkeypatch.setattr(draining, "_standing", counted)
    go = asyncio.Event()

    async def wait(request: Request) -> Answer:
        await go.wait()
        return await echo(request)

    async with edge(behaviour=wait) as e:
        asked = asyncio.create_task(talk(e.port, post("/predictions/m", b"late")))
        await until(lambda: bool(e.inference.calls))
        stop = asyncio.create_task(e.listeners[0].stop(grace=20))
        await until(lambda: len(looks) > 20)  # each a whole limit behind the one before
        go.set()
        assert (await asked).endswith(b"\r\n\r\nlate")
        await stop
