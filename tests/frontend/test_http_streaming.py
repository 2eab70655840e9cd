"""Answers that come in chunks (reference §4.6)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.frontend.http_fakes import edge, post, talk, until
from ts_frontend.core.job import STREAM_BYTES, Answer, Stream
from ts_frontend.errors import Internal
from ts_worker.messages import Request, pack_headers


class Tap:
    """A worker's end of one stream."""

    def __init__(self) -> None:
        self.cancelled = False
        self.stream = Stream(self._cancel)

    def _cancel(self) -> None:
        self.cancelled = True

    def behaviour(self, headers: bytes = b"", first: bytes = b"one") -> Behaviour:
        async def answer(request: Request) -> Answer:
            return Answer(200, "", headers, first, self.stream)

        return answer


Behaviour = Callable[[Request], Awaitable[Answer]]
KEPT = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


async def test_chunks_are_framed_and_the_connection_is_kept() -> None:
    tap = Tap()
    tap.stream.push(b"two")
    tap.stream.push(b"x" * 17)
    tap.stream.end()
    async with edge(behaviour=tap.behaviour()) as e:
        answer = await talk(e.port, KEPT, b"GET /ping HTTP/1.0\r\n\r\n")
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 \r\nts_stream_next: true\r\nx-request-id: ")
    assert head.endswith(b"\r\ntransfer-encoding: chunked\r\nconnection: keep-alive")
    assert b"content-length" not in head
    body = b"3\r\none\r\n3\r\ntwo\r\n11\r\n" + b"x" * 17 + b"\r\n0\r\n\r\n"
    assert rest.startswith(body + b"HTTP/1.1 200 OK\r\n")
    assert not tap.cancelled


async def test_each_chunk_goes_out_as_it_comes() -> None:
    tap = Tap()
    async with edge(behaviour=tap.behaviour()) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m"))
        await reader.readuntil(b"3\r\none\r\n")
        # Log and counters tell the stream's start, not its end.
        assert len(e.logs.access_lines) == 1
        tap.stream.push(b"two")
        assert await reader.readexactly(8) == b"3\r\ntwo\r\n"
        tap.stream.end()
        assert await reader.read() == b"0\r\n\r\n"
        writer.close()


async def test_the_handlers_own_mark_is_not_doubled() -> None:
    tap = Tap()
    tap.stream.end()
    headers = pack_headers([("ts_stream_next", "true"), ("content-type", "text/event-stream")])
    async with edge(behaviour=tap.behaviour(headers)) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.count(b"ts_stream_next") == 1
    assert b"content-type: text/event-stream\r\n" in answer


async def test_an_empty_first_chunk_does_not_end_the_body() -> None:
    tap = Tap()
    tap.stream.push(b"late")
    tap.stream.end()
    async with edge(behaviour=tap.behaviour(first=b"")) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.endswith(b"\r\n\r\n4\r\nlate\r\n0\r\n\r\n")


async def test_an_error_after_the_start_closes_without_an_end() -> None:
    tap = Tap()
    tap.stream.push(b"two")
    tap.stream.end(Internal("Worker died."))
    async with edge(behaviour=tap.behaviour()) as e:
        answer = await talk(e.port, KEPT)
    assert answer.endswith(b"3\r\none\r\n3\r\ntwo\r\n")


async def test_a_reader_that_goes_away_cancels_the_stream() -> None:
    tap = Tap()
    async with edge(behaviour=tap.behaviour()) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m"))
        await reader.readuntil(b"one\r\n")
        writer.close()
        await until(lambda: tap.cancelled)


async def test_http_1_0_gets_the_bytes_alone() -> None:
    tap = Tap()
    tap.stream.push(b"two")
    tap.stream.end()
    async with edge(behaviour=tap.behaviour()) as e:
        request = b"POST /predictions/m HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
        answer = await talk(e.port, request)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert body == b"onetwo"
    assert b"transfer-encoding" not in head
    assert head.endswith(b"connection: close")


async def test_head_of_a_stream_ends_it() -> None:
    tap = Tap()
    async with edge(behaviour=tap.behaviour()) as e:
        request = b"HEAD /predictions/m HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        answer = await talk(e.port, request)
    assert answer.endswith(b"\r\n\r\n")
    assert tap.cancelled


@pytest.mark.parametrize(
    ("status", "reason", "headers"),
    [(99, "", b""), (200, "a\nb", b""), (200, "", pack_headers([("X", "a\r\nb")]))],
)
async def test_a_stream_whose_head_cannot_be_sent_is_cancelled(
    status: int, reason: str, headers: bytes
) -> None:
    tap = Tap()

    async def odd(request: Request) -> Answer:
        return Answer(status, reason, headers, b"one", tap.stream)

    async with edge(behaviour=odd) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"The handler set" in answer
    assert tap.cancelled
    assert tap.stream.ended


async def test_a_handler_waits_for_a_client_that_does_not_read() -> None:
    pressure: list[bool] = []
    stream = Stream(lambda: None, pressure.append)
    half = bytes(STREAM_BYTES // 2)
    stream.push(half)
    assert pressure == []
    stream.push(half)
    stream.push(b"x")
    assert pressure == [True]
    for _ in range(2):
        assert await anext(stream) == half
    assert pressure == [True, False]
    stream.push(bytes(STREAM_BYTES))
    stream.end()
    assert pressure == [True, False, True, False]
    assert len([part async for part in stream]) == 2


async def test_who_goes_away_lets_the_handler_go_on() -> None:
    pressure: list[bool] = []
    stream = Stream(lambda: None, pressure.append)
    stream.push(bytes(STREAM_BYTES))
    await stream.aclose()
    assert pressure == [True, False]


async def test_one_chunk_may_be_larger_than_the_bound() -> None:
    tap = Tap()
    whole = bytes(STREAM_BYTES + 1)
    tap.stream.push(whole)
    tap.stream.end()
    assert [part async for part in tap.stream] == [whole]
    assert not tap.cancelled
