"""Answers in chunks to requests that a client repeats: sent as they come, closed however they end.

test_http_uvloop runs these tests once more.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.frontend.http_fakes import Edge, until
from tests.frontend.http_kept import Kept, M, Model, ask, asked, repeated
from ts_frontend.core.job import Answer, Stream
from ts_frontend.errors import Internal
from ts_frontend.http.connection import Connection


class Tap:
    """A stream whose closing shows."""

    def __init__(self) -> None:
        self.closed = 0
        self.stream = Stream(self._close)

    def _close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def streaming() -> AsyncIterator[tuple[Edge, Kept, Connection, Model, Tap]]:
    """A client that repeats its request, and is answered by a stream from the second one on."""
    tap = Tap()
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        model.say(b"one", tap.stream)
        yield e, client, connection, model, tap


async def test_a_stream_is_sent_as_it_comes_and_keeps_the_connection() -> None:
    async with streaming() as (e, client, connection, model, tap):
        await client.reader.readuntil(b"3\r\none\r\n")
        assert len(e.logs.access_lines) == 2
        client.writer.write(ask(M, b"ahead"))
        await until(lambda: bool(connection.track._held))
        tap.stream.push(b"two")
        await client.reader.readuntil(b"3\r\ntwo\r\n")
        assert model.bodies == [b"again"]
        tap.stream.end()
        await client.reader.readuntil(b"0\r\n\r\n")
        await until(lambda: model.bodies == [b"again", b"ahead"])
        model.say()
        assert (await client.said()).body == b"said"
        assert not tap.closed


@pytest.mark.parametrize("begun", [True, False])
async def test_a_stream_ends_with_its_client(begun: bool) -> None:
    async with streaming() as (_, client, connection, _model, tap):
        if begun:
            await client.reader.readuntil(b"one\r\n")
            client.writer.transport.abort()
        else:  # in the very turn in which the model began
            connection.connection_lost(ConnectionResetError())
        await until(lambda: tap.closed == 1)
        assert not connection._request_in_progress


async def test_a_stream_that_breaks_off_closes_the_connection() -> None:
    async with streaming() as (_, client, _connection, _model, tap):
        await client.reader.readuntil(b"one\r\n")
        tap.stream.end(Internal("Worker died."))
        assert await asyncio.wait_for(client.reader.read(), 10) == b""


async def test_a_stream_whose_head_cannot_be_sent_is_cancelled() -> None:
    tap = Tap()
    async with repeated() as (_, client, _connection, model):
        await asked(client, model)
        model.sinks[-1](Answer(99, "", b"", b"one", tap.stream))
        said = await client.said()
        assert said.head.startswith(b"HTTP/1.1 500 ")
        assert said.closes
        assert tap.closed == 1


async def test_a_bug_in_the_middle_of_a_stream_closes_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with streaming() as (_, client, connection, _model, tap):
        await client.reader.readuntil(b"one\r\n")
        sending = connection.track._sending
        assert sending is not None
        monkeypatch.delattr("ts_frontend.http.response.StreamedResponse._frame")
        tap.stream.push(b"two")
        assert await asyncio.wait_for(client.reader.read(), 10) == b""
        assert isinstance(sending.exception(), AttributeError)
        assert tap.closed == 1


async def test_a_stream_whose_client_reads_nothing_ends_with_the_server() -> None:
    async with streaming() as (_, client, connection, _model, tap):
        tap.stream.push(bytes(16 << 20))
        await until(lambda: connection._paused)
        await connection.shutdown(0.01)
        assert tap.closed == 1
        await until(lambda: connection.track._sending is None)
        client.writer.transport.abort()
