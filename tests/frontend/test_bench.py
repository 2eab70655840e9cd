"""`torchserve-py bench` against real servers in this process."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.frontend.bench_rig import OK, read, read_on, refusal, server, target
from tests.frontend.http_fakes import echo, edge, until
from ts_frontend.bench import answer as wire
from ts_frontend.bench.connection import Connection
from ts_frontend.bench.crew import Crew
from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.load import drive
from ts_frontend.bench.plan import Input, Level, Target
from ts_frontend.bench.tally import Tally
from ts_frontend.config import Address
from ts_frontend.core.job import Answer
from ts_worker.messages import Request


async def measure(aimed: Target, level: Level) -> Tally:
    async with asyncio.timeout(30):
        return await drive(aimed, level, time.monotonic(), asyncio.Event())


async def test_each_of_a_number_of_requests_is_sent_and_counted() -> None:
    async with edge() as served:
        inputs = Input(b"one"), Input(b"three")

        tally = await measure(target(served.port, *inputs), Level(4, warmup=0, requests=50))

        bodies = [bytes(call[2].params[0].value) for call in served.inference.calls]
        assert (tally.latencies.count, tally.errors, tally.waiting) == (50, {}, 0)
        assert (bodies.count(b"one"), bodies.count(b"three")) == (25, 25)
        assert (tally.sent, tally.received) == (25 * 8, 25 * 8)
        assert tally.seconds > 0
        assert tally.rate == pytest.approx(50 / tally.seconds)


async def test_a_level_lasts_its_time() -> None:
    async with edge() as served:
        tally = await measure(target(served.port), Level(2, warmup=0.1, seconds=0.2))

    assert tally.seconds == pytest.approx(0.2, abs=0.01)
    assert len(tally.busy) == 1
    assert not tally.interrupted


async def test_answers_count_once_the_warm_up_is_over() -> None:
    async with edge() as served, asyncio.timeout(30):
        begin, stop, calls = time.monotonic(), asyncio.Event(), served.inference.calls
        level = Level(2, warmup=0.1, seconds=60)
        running = asyncio.create_task(drive(target(served.port), level, begin, stop))
        await until(lambda: bool(calls) and time.monotonic() > begin + 0.1)
        before = len(calls)
        await until(lambda: len(calls) > before + 4)  # two of them were answered at least
        stop.set()
        tally = await running

    assert 0 < tally.latencies.count < len(calls)
    assert 0 < tally.seconds < 30


async def test_connections_are_kept_and_as_many_as_asked_for() -> None:
    met: list[object] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.append(writer)
        while True:
            await read(reader)
            writer.write(OK)

    async with server(talk) as port:
        tally = await measure(target(port), Level(3, warmup=0, requests=60))

    assert (len(met), tally.latencies.count) == (3, 60)


async def test_a_server_that_closes_behind_its_answers_is_reached_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(OK.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"))

    async with server(talk) as port:
        tally = await measure(target(port), Level(2, warmup=0, requests=20))

    assert (tally.latencies.count, tally.errors) == (20, {})


async def test_a_server_that_closes_at_once_is_an_error_and_no_wait() -> None:
    async def talk(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        return

    async with server(talk) as port:
        tally = await measure(target(port), Level(2, warmup=0, requests=6))

    assert tally.errors == {"connection closed": 6}


async def test_a_connection_that_the_server_closed_meanwhile_is_opened_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        writer.write(OK)

    outcomes: asyncio.Queue[object] = asyncio.Queue()
    async with server(talk) as port, asyncio.timeout(30):
        aimed = target(port)
        connection = Connection(aimed, None, lambda _, outcome: outcomes.put_nowait(outcome))
        for _ in range(2):
            connection.send(aimed.requests()[0], 0, 0.0)
            outcome = await outcomes.get()
            assert isinstance(outcome, wire.Answer)
            await until(lambda: connection._stream is None)
        await connection.close()


async def test_errors_are_counted_by_kind() -> None:
    answers = [
        OK,
        b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nno worker",
        OK.replace(b"\r\n\r\nok", b"\r\n\r\nno"),
        b"",
        b"SSH-2.0\r\n",
    ]
    turn = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turn
        while True:
            await read(reader)
            turn += 1
            answer = answers[(turn - 1) % len(answers)]
            writer.write(answer)
            if not answer:
                return

    async with server(talk) as port:
        aimed = target(port, Input(b"hello", expect=b"ok"))
        tally = await measure(aimed, Level(1, warmup=0, requests=5))

    assert tally.latencies.count == 1
    assert tally.errors == {
        "status 503": 1,
        "another body than expected": 1,
        "connection closed": 1,
        "no HTTP answer": 1,
    }
    assert tally.samples["status 503"] == "no worker"


async def test_an_answer_that_does_not_come_in_time_is_an_error() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(talk) as port:
        tally = await measure(target(port, timeout=0.05), Level(2, warmup=0, requests=2))

    assert tally.errors == {"no answer in 0.05 s": 2}


async def test_a_server_that_is_gone_is_an_error_of_each_request() -> None:
    async with server(read_on) as port:
        pass

    tally = await measure(target(port), Level(2, warmup=0, requests=4))

    assert tally.errors == {"can't connect: Connection refused": 4}


async def test_what_waits_in_the_end_is_told() -> None:
    gate = asyncio.Event()
    begun = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read(reader)
        begun.set()
        await gate.wait()
        writer.write(OK)
        await reader.read()

    async with server(talk) as port, asyncio.timeout(30):
        level = Level(3, warmup=0, seconds=1)
        stop = asyncio.Event()
        driving = asyncio.create_task(drive(target(port), level, time.monotonic(), stop))
        await begun.wait()
        asyncio.get_running_loop().call_later(1.3, gate.set)  # after the level: it waits for them
        tally = await driving

    assert (tally.count, tally.waiting, tally.interrupted) == (0, 3, False)
    assert 0 < tally.oldest <= 1


async def test_an_interrupted_level_has_what_was_counted_by_then() -> None:
    stop = asyncio.Event()

    async def tenth(request: Request) -> Answer:
        if len(served.inference.calls) == 10:
            stop.set()
        return await echo(request)

    async with edge(behaviour=tenth) as served, asyncio.timeout(30):
        level = Level(1, warmup=0, seconds=60)
        tally = await drive(target(served.port), level, time.monotonic(), stop)

    assert tally.interrupted
    assert tally.latencies.count >= 9
    assert tally.seconds < 30


async def test_an_open_loop_sends_at_its_rate() -> None:
    async with edge() as served:
        level = Level(64, rate=400.0, warmup=0, requests=200)

        tally = await measure(target(served.port), level)

    assert (tally.latencies.count, tally.errors) == (200, {})
    assert 0.2 < tally.seconds < 5  # half a second is the mean


async def test_a_stall_of_the_server_is_in_the_latencies_of_an_open_loop() -> None:
    """One connection: what was due in the stall waits for it, and its latency tells."""
    calls = 0

    async def stall(request: Request) -> Answer:
        nonlocal calls
        calls += 1
        if calls == 1:
            await asyncio.sleep(0.5)
        return await echo(request)

    async with edge(behaviour=stall) as served:
        level = Level(1, rate=100.0, warmup=0, requests=40)

        tally = await measure(target(served.port), level)

    # By the time of sending one of 40 would have waited.
    median = tally.latencies.percentile(50)
    assert median is not None
    assert median > 50e6
    assert tally.latencies.greatest >= 500e6


async def test_a_unix_socket_is_measured(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    async with edge(inference_address=Address("unix", "", 0, path)):
        tally = await measure(target(0, unix=path), Level(2, warmup=0, requests=10))

    assert tally.latencies.count == 10


async def test_https_with_a_certificate_of_its_own_needs_insecure() -> None:
    async with edge(inference_address=Address("https", "127.0.0.1", 0)) as served:
        text = await refusal(target(served.port, tls=True))
        aimed = target(served.port, tls=True, insecure=True)
        tally = await measure(aimed, Level(2, warmup=0, requests=10))

    assert "self-signed certificate" in text
    assert text.endswith("--insecure takes any certificate")
    assert (tally.latencies.count, tally.errors) == (10, {})


async def test_several_processes_share_a_level() -> None:
    async with edge() as served, Crew(target(served.port), processes=2) as crew:
        stop = asyncio.Event()
        tallies = [
            await crew.measure(Level(connections, warmup=0, requests=40), stop)
            for connections in (4, 1)
        ]

    assert [tally.latencies.count for tally in tallies] == [40, 40]
    assert [len(tally.busy) for tally in tallies] == [2, 1]


async def test_several_processes_can_be_interrupted() -> None:
    stop = asyncio.Event()

    async def tenth(request: Request) -> Answer:
        if len(served.inference.calls) == 10:
            stop.set()
        return await echo(request)

    async with (
        asyncio.timeout(60),
        edge(behaviour=tenth) as served,
        Crew(target(served.port), processes=2) as crew,
    ):
        tally = await crew.measure(Level(2, warmup=0, seconds=600), stop)

    assert tally.interrupted
    assert tally.latencies.count >= 8


async def test_a_process_of_the_client_that_dies_is_named() -> None:
    async with (
        asyncio.timeout(60),
        edge() as served,
        Crew(target(served.port), processes=2) as crew,
    ):
        crew._processes[1].kill()

        with pytest.raises(BenchError, match="a process of the client died"):
            await crew.measure(Level(2, warmup=0, requests=10), asyncio.Event())
