"""The connection of a client that repeats its request: what comes early, late or in pieces, and
how it ends.

test_http_uvloop runs these tests once more.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tests.frontend.http_fakes import echo, edge, post, until
from tests.frontend.http_kept import Kept, M, ask, asked, repeated
from ts_frontend.core.job import Answer, Stream
from ts_frontend.errors import Internal
from ts_frontend.http import draining
from ts_frontend.http.lane import MAX_MISSES
from ts_frontend.http.server import Listener
from ts_frontend.http.track import HELD_BYTES
from ts_worker.messages import Request


async def test_a_request_that_is_repeated_needs_no_parser_and_no_task() -> None:
    async with repeated() as (e, client, connection, model):
        tasks = asyncio.all_tasks()
        for body in (b"1", b"22", b""):
            await asked(client, model, body)
            assert asyncio.all_tasks() == tasks
            model.say(b"said " + body)
            assert (await client.said()).body == b"said " + body
        assert len(e.inference.calls) == 1
        assert connection._request_count == 1


async def test_requests_sent_ahead_are_answered_in_their_order() -> None:
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        client.writer.write(ask(M, b"2") + ask("/ping", method="GET") + ask(M, b"3"))
        await until(lambda: bool(connection.track._held))
        assert len(e.inference.calls) == 1
        model.say()
        said = [(await client.said()).body for _ in range(4)]
        assert said[:2] == [b"said", b"2"]
        assert b"Healthy" in said[2]
        assert said[3] == b"3"


async def test_what_comes_with_the_answer_waits_behind_what_came_before() -> None:
    """Both sockets may be read in one turn of the loop."""
    async with repeated() as (_, client, connection, model):
        await asked(client, model)
        other = ask(M + "/2.0/behind", b"b" * 9)
        connection.data_received(other[:60])
        model.say()
        connection.data_received(other[60:])
        assert (await client.said()).body == b"said"
        assert (await client.said()).body == b"b" * 9


async def test_a_client_that_sends_too_much_ahead_is_held_back() -> None:
    count = 20
    body = b"x" * (HELD_BYTES // 2)
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        assert connection.transport is not None
        client.writer.write(ask(M, body) * count)
        await until(lambda: not connection.transport.is_reading())
        assert len(connection.track._held) <= HELD_BYTES + (256 << 10)  # and one read
        del cast(Any, e.inference).submit  # the rest is echoed
        model.say()
        assert (await client.said()).body == b"said"
        for _ in range(count):
            assert (await client.said()).body == body


async def test_what_a_client_sent_ahead_goes_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        connection.data_received(ask(M, b"x" * HELD_BYTES))
        model.say()
        connection.connection_lost(None)
        await until(lambda: not connection.track.busy)
        assert len(e.inference.calls) == 1
        assert model.bodies == [b"again"]
        assert caplog.text == ""
        await client.close()


HALF = b"POST /nowhere HTTP/1.1\r\nX-Half: "
REST = ask(M, b"!")


async def test_half_a_request_that_comes_during_a_stream_is_no_reason_to_forget_it() -> None:
    stream = Stream(lambda: None)

    async def answer(request: Request) -> Answer:
        return Answer(200, "", b"", b"one", stream)

    async with edge(behaviour=answer) as e, Kept(e) as client:
        client.writer.write(ask(M, b"?"))
        await client.reader.readuntil(b"one\r\n")
        connection = await client.server_side()
        client.writer.write(HALF)
        await until(lambda: connection._arrived == b"" and connection.track._lane is None)
        stream.end()
        await client.reader.readuntil(b"0\r\n\r\n")
        client.writer.write(REST)
        # One request, a field of which looks like another one.
        assert (await client.said()).head.startswith(b"HTTP/1.1 404 ")
        assert len(e.inference.calls) == 1
        assert e.inference.submitted == 0


async def test_the_end_of_a_request_is_not_taken_for_its_kind() -> None:
    early = b"POST /predictions/m/2.0/early HTTP/1.1\r\nX-Half: "
    async with edge() as e, Kept(e) as client:
        client.writer.write(ask(M, b"a") + early)
        assert (await client.said()).body == b"a"
        client.writer.write(REST)
        assert (await client.said()).body == b"!"
        assert (await client.ask(M, b"!")).body == b"!"
        assert [version for _, version, _ in e.inference.calls] == [None, "2.0", None]
        assert "X-Half" not in e.inference.headers()


@pytest.mark.parametrize("cut", [1, 20, -1])
async def test_a_request_in_pieces_is_left_to_the_parser(cut: int) -> None:
    async with edge() as e, Kept(e) as client:
        await client.ask(M, b"first")
        connection = await client.server_side()
        for n in range(3):
            whole = ask(M, b"body %d" % n)
            client.writer.write(whole[:cut])
            await until(
                lambda: bool(connection._head_since or draining.unfinished_body(connection))
            )
            client.writer.write(whole[cut:])
            assert (await client.said()).body == b"body %d" % n
        assert e.inference.submitted == 0
        for n in range(3):  # behind them there is a lane again
            assert (await client.ask(M, b"%d" % n)).body == b"%d" % n
        assert e.inference.submitted == 2


async def test_what_is_no_request_is_a_400_behind_repeated_ones_too() -> None:
    async with edge() as e, Kept(e) as client:
        for n in range(3):
            await client.ask(M, b"%d" % n)
        assert e.inference.submitted == 2
        client.writer.write(ask(M, b"abc").replace(b": 3", b": 3x"))
        assert (await client.said()).head.startswith(b"HTTP/1.1 400 ")


async def test_who_never_repeats_a_head_is_not_looked_at_for_long() -> None:
    async with edge() as e, Kept(e) as client:
        for n in range(MAX_MISSES + 1):
            await client.ask(M, b"x", f"X-Id: {n}")
        for _ in range(3):
            await client.ask(M, b"x", "X-Id: the same")
        assert e.inference.submitted == 0


async def test_a_client_that_goes_away_leaves_the_model() -> None:
    async with repeated() as (e, client, _, model):
        await asked(client, model)
        lines = len(e.logs.access_lines)
        client.writer.transport.abort()
        await until(lambda: model.abandoned == 1)
        assert len(e.logs.access_lines) == lines


async def test_stopping_does_not_wait_for_a_client_that_has_gone() -> None:
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        stop = asyncio.create_task(e.listeners[0].stop(grace=60))
        await until(lambda: connection._handler_waiter is not None)
        client.writer.transport.abort()
        await asyncio.wait_for(stop, 10)
        assert model.abandoned == 1


async def test_stopping_answers_what_is_under_way() -> None:
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        stop = asyncio.create_task(e.listeners[0].stop(grace=60))
        await until(lambda: connection._handler_waiter is not None)
        assert not stop.done()
        client.writer.write(ask(M, b"too late"))
        await until(lambda: bool(connection.track._held))
        model.say()
        said = await client.said()
        assert said.body == b"said"
        assert said.closes
        await asyncio.wait_for(stop, 10)
        assert model.bodies == [b"again"]


async def test_stopping_cuts_off_what_does_not_end() -> None:
    async with repeated() as (e, client, _, model):
        await asked(client, model)
        await e.listeners[0].stop(grace=0.01)
        assert model.abandoned == 1
        assert await asyncio.wait_for(client.reader.read(), 10) == b""
        model.say()  # which nobody hears


async def test_a_connection_is_not_idle_while_its_request_is_under_way() -> None:
    def hurry(listener: Listener) -> None:
        listener._keep_alive = 0.02

    async with repeated(hurry) as (_, client, connection, model):
        await asked(client, model)
        for _ in range(3):
            before = connection._keepalive_handle
            await until(lambda: connection._keepalive_handle is not before)  # noqa: B023
        model.say()
        assert (await client.said()).body == b"said"
        assert await asyncio.wait_for(client.reader.read(), 10) == b""  # and then it is


async def test_an_error_closes_and_what_comes_behind_it_is_not_answered() -> None:
    async with repeated() as (_, client, connection, model):
        await asked(client, model)
        model.sinks[-1](Internal("no"))
        connection.data_received(ask(M, b"behind"))  # as TLS may, until its own end has come
        said = await client.said()
        assert said.head.startswith(b"HTTP/1.1 500 ")
        assert said.closes
        assert model.bodies == [b"again"]


async def test_an_answer_waits_for_a_slow_client_and_the_next_request_for_both() -> None:
    long = bytes(16 << 20)
    async with repeated() as (_, client, connection, model):
        await asked(client, model)
        model.say(long)
        assert connection._paused
        client.writer.write(ask(M, b"next"))
        await until(lambda: bool(connection.track._held))
        assert (await client.said()).body == long
        await until(lambda: model.bodies[-1] == b"next")
        model.say()
        assert (await client.said()).body == b"said"


async def test_a_client_that_stops_reading_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_frontend.http.response.WRITE_SECONDS", 0.05)
    async with repeated() as (e, client, connection, model):
        await asked(client, model)
        model.say(bytes(64 << 20))
        await until(lambda: not e.listeners[0]._web.connections)
        assert not connection._request_in_progress
        client.writer.transport.abort()


async def test_a_body_too_large_for_one_read_does_not_end_repeating() -> None:
    """aiohttp's own loop answers from there on."""
    async with edge() as e, Kept(e) as client:
        large = bytes(1 << 20)
        for body in (b"a", large, b"b", b"c", large, b"d", b"e"):
            assert (await client.ask(M, body)).body == body
        assert e.inference.submitted == 2


async def test_without_what_the_loop_is_built_on_everything_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ts_frontend.http.connection._KNOWN", False)
    async with edge() as e, Kept(e) as client:
        for body in (b"a", b"b", b"c"):
            assert (await client.ask(M, body)).body == body
        assert e.inference.submitted == 0


async def test_a_request_without_a_host_is_answered_each_time() -> None:
    one = ask(M, b"x").replace(b"Host: x\r\n", b"")
    async with edge() as e, Kept(e) as client:
        for _ in range(3):
            client.writer.write(one)
            assert (await client.said()).body == b"x"
        assert len(e.inference.calls) == 3


async def test_the_last_request_may_ask_to_close() -> None:
    async with edge(behaviour=echo) as e, Kept(e) as client:
        for body in (b"a", b"b"):
            await client.ask(M, body)
        client.writer.write(post(M, b"last"))
        said = await client.said()
        assert (said.body, said.closes) == (b"last", True)
