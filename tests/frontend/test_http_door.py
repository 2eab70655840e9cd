"""Plain HTTP and bad manners on an https address (reference §2.4), over real TLS.

test_http_uvloop runs these tests once more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.frontend.http_fakes import Edge, edge, post, talk, without_id
from ts_frontend.config import Address
from ts_frontend.http.door import Door
from ts_frontend.http.server import BindError, Listener

HTTPS = Address("https", "127.0.0.1", 0)
REFUSED = (
    b"HTTP/1.1 403 Forbidden\r\n"
    b"content-type: application/json\r\n"
    b"x-request-id: ID\r\n"
    b"Pragma: no-cache\r\n"
    b"Cache-Control: no-cache; no-store, must-revalidate, private\r\n"
    b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
    b"content-length: 71\r\n"
    b"connection: close\r\n\r\n"
    b'{\n  "status": "This TorchServe instance only accepts HTTPS requests"\n}\n'
)


def client() -> ssl.SSLContext:
    """Certificates are the matter of test_http_tls."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def hello() -> bytes:
    """What a client sends first."""
    outgoing = ssl.MemoryBIO()
    tls = client().wrap_bio(ssl.MemoryBIO(), outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def impatient(listener: Listener) -> None:
    listener._head_timeout = 0.2


@asynccontextmanager
async def https(patient: bool = True) -> AsyncIterator[Edge]:
    """An edge whose inference API is https, with a certificate made for it."""
    async with edge(inference_address=HTTPS, tune=None if patient else impatient) as e:
        yield e


async def predict(port: int, body: bytes = b"x") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client())
    try:
        writer.write(post("/predictions/m", body))
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


async def closed(port: int, data: bytes) -> float:
    """Send something and wait for the end; says after how many seconds it came."""
    begun = time.monotonic()
    with contextlib.suppress(ConnectionError):
        await talk(port, data)
    return time.monotonic() - begun


async def test_a_plain_request_is_told_to_use_https() -> None:
    async with https() as e:
        answer = await talk(e.port, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert without_id(answer) == REFUSED
        assert [line.partition(" ")[2] for line in e.logs.access_lines] == [
            '"GET /ping HTTP/1.1" 403 0'
        ]
        assert not e.inference.calls


async def test_a_plain_request_with_a_large_body_is_told_too() -> None:
    """Closing with half the body unread would reset the connection, and the answer with it."""
    async with https() as e:
        answer = await talk(e.port, post("/predictions/m", b"x" * 3_000_000))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert not e.inference.calls


async def test_a_plain_request_may_come_byte_by_byte() -> None:
    async with https() as e:
        pieces = [bytes([one]) for one in b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"]
        assert (await talk(e.port, *pieces)).startswith(b"HTTP/1.1 403 ")


async def test_both_are_counted() -> None:
    async with https() as e:
        assert (await predict(e.port)).startswith(b"HTTP/1.1 200 ")
        await talk(e.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        page = e.recorder.render([]).decode()
        assert 'Requests2XX{Level="Host",Hostname="here",} 1.0' in page
        assert 'Requests4XX{Level="Host",Hostname="here",} 1.0' in page


async def test_garbage_is_closed_at_once() -> None:
    async with https() as e:
        for data in (b"\0" * 100, b"\x16\x03\x01\x00\x05hello"):
            assert await closed(e.port, data) < 5
        assert (await predict(e.port)).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_leaves_at_once_is_no_trouble() -> None:
    """Load balancers look for a port in this way."""
    async with https() as e:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", e.port)
            writer.close()
            await writer.wait_closed()
        assert (await predict(e.port)).startswith(b"HTTP/1.1 200 ")


async def test_silent_clients_hold_nobody_up_and_are_dropped() -> None:
    async with https(patient=False) as e:
        half = hello()[:50]
        waiting = [asyncio.create_task(closed(e.port, data)) for data in [b"", half, b"GE"] * 5]
        assert (await predict(e.port)).startswith(b"HTTP/1.1 200 ")
        took = await asyncio.gather(*waiting)
        assert min(took) >= 0.15
        assert max(took) < 5


async def test_fifty_connect_at_once() -> None:
    async with https() as e:
        bodies = [b"%d" % number for number in range(50)]
        answers = await asyncio.gather(*(predict(e.port, body) for body in bodies))
        assert [answer.rpartition(b"\r\n\r\n")[2] for answer in answers] == bodies


async def test_a_connection_serves_many_requests_and_large_bodies() -> None:
    body = b"x" * 300_000
    async with https() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port, ssl=client())
        for _ in range(3):
            writer.write(post("/predictions/m", body).replace(b"Connection: close\r\n", b""))
            head = await reader.readuntil(b"\r\n\r\n")
            assert b"connection: keep-alive" in head
            assert await reader.readexactly(len(body)) == body
        writer.close()
        assert [line.partition(":")[0] for line in e.logs.access_lines] == ["/127.0.0.1"] * 3


async def test_small_answers_are_not_held_back() -> None:
    """Nagle's algorithm would wait for the client's acknowledgement."""
    async with https() as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port, ssl=client())
        writer.write(post("/predictions/m", b"x").replace(b"Connection: close\r\n", b""))
        await reader.readuntil(b"\r\n\r\nx")
        web = e.listeners[0]._web
        assert web is not None
        (connection,) = web.connections
        assert connection.transport is not None
        raw = connection.transport.get_extra_info("socket")
        assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


async def test_stopping_does_not_wait_for_who_has_not_come_in() -> None:
    async with https() as e:
        waiting = [asyncio.create_task(closed(e.port, data)) for data in (b"", hello()[:50])]
        door = e.listeners[0]._server
        assert isinstance(door, Door)
        async with asyncio.timeout(10):
            while len(door._entering) < 2:  # noqa: ASYNC110 - accepting sets no event
                await asyncio.sleep(0)
            await e.listeners[0].stop(grace=5)
        assert max(await asyncio.gather(*waiting)) < 5
        assert not door._entering


async def test_stopping_answers_what_is_under_way() -> None:
    async with https() as e:
        gate = asyncio.Event()
        behaviour = e.inference.behaviour

        async def wait(request):  # type: ignore[no-untyped-def]
            await gate.wait()
            return await behaviour(request)

        e.inference.behaviour = wait
        asking = asyncio.create_task(predict(e.port))
        async with asyncio.timeout(10):
            while not e.inference.calls:  # noqa: ASYNC110 - a call sets no event
                await asyncio.sleep(0)
        stopping = asyncio.create_task(e.listeners[0].stop(grace=5))
        await asyncio.sleep(0)
        gate.set()
        assert (await asking).startswith(b"HTTP/1.1 200 ")
        await stopping


async def test_a_port_in_use_is_told_like_that_of_an_http_address() -> None:
    async with https() as e:
        second = Address("https", "127.0.0.1", e.port)
        with pytest.raises(BindError, match=rf"^Cannot listen on {second}: Address already in use"):
            async with edge(inference_address=second):
                pass


async def test_accepting_rests_while_there_are_no_descriptors() -> None:
    class Listening(socket.socket):
        """Has no descriptor for the first client that comes."""

        full = True

        def accept(self) -> tuple[socket.socket, object]:
            if self.full:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    async with https() as e:
        door = e.listeners[0]._server
        assert isinstance(door, Door)
        (plain,) = door.sockets
        loop = asyncio.get_running_loop()
        loop.remove_reader(plain)
        poor = Listening(fileno=plain.detach())
        door.sockets = (poor,)
        loop.add_reader(poor, door._accept, poor, 10)
        asking = asyncio.create_task(predict(e.listeners[0].port))
        async with asyncio.timeout(10):
            while poor not in door._resting:  # noqa: ASYNC110 - resting sets no event
                await asyncio.sleep(0)
            Listening.full = False
            assert (await asking).startswith(b"HTTP/1.1 200 ")


async def test_every_address_of_a_name_is_listened_on() -> None:
    async with edge(inference_address=Address("https", "localhost", 0)) as e:
        door = e.listeners[0]._server
        assert isinstance(door, Door)
        for one in door.sockets:
            host, port, *_ = one.getsockname()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            body = (await reader.read()).partition(b"\r\n\r\n")[2]
            assert json.loads(body) == json.loads(REFUSED.partition(b"\r\n\r\n")[2])
            writer.close()
