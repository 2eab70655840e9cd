"""The open-loop client, against a server in memory that answers, refuses, closes and breaks off."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.load import openloop
from benchmarks.load.openloop import Load, LoadFailed, Outcome, drive
from benchmarks.suite import Missing

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 4\r\n\r\nbusy"

# Gets the number of a request, its head and its body; None closes the connection unanswered.
Answer = Callable[[int, bytes, bytes], Awaitable[bytes | None]]


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
                count += 1
                reply = await answer(count, head, body)
                if reply is None:
                    break
                writer.write(reply)
                if b"connection: close" in reply:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/predictions/m?a=b"


async def load(url: str, **options: object) -> Outcome:
    wanted: dict[str, object] = {"rate": 300.0, "seconds": 1.0, "warmup": 0.2, "target": 2000.0}
    return await asyncio.to_thread(drive, Load(url, **{**wanted, **options}))  # type: ignore[arg-type]


async def test_sends_what_it_was_told_and_counts_each_answer(tmp_path: Path) -> None:
    heads, bodies = set(), set()

    async def answer(number: int, head: bytes, body: bytes) -> bytes:
        heads.add(head)
        bodies.add(body)
        return OK

    body = tmp_path / "body"
    body.write_bytes(b"x" * 300_000)
    async with serving(answer) as url:
        found = await load(url, body=body, token="key", content_type="text/plain")
    assert bodies == {b"x" * 300_000}
    (head,) = heads
    assert head.startswith(b"POST /predictions/m?a=b HTTP/1.1\r\n")
    assert b"Authorization: Bearer key\r\n" in head
    assert b"Content-Type: text/plain\r\n" in head
    assert found.statuses == {200: found.sent}
    assert (found.ok, found.lost, found.share) == (found.sent, 0, 1.0)
    assert found.goodput == pytest.approx(found.ok)
    assert 200 < found.sent < 400  # 300 expected, with a deviation of 17


async def test_a_seed_gives_the_same_schedule() -> None:
    async def answer(number: int, head: bytes, body: bytes) -> bytes:
        return OK

    async with serving(answer) as url:
        sent = [(await load(url, seed=seed)).sent for seed in (7, 7, 8, 9, 10)]
    assert sent[0] == sent[1]
    assert len(set(sent)) > 1


async def test_refusals_that_close_the_connection_are_answers() -> None:
    async def answer(number: int, head: bytes, body: bytes) -> bytes:
        return BUSY if number % 2 else OK

    async with serving(answer) as url:
        found = await load(url)
    assert set(found.statuses) == {200, 503}
    assert found.lost == 0
    assert found.ok == found.statuses[200]


async def test_a_connection_that_was_closed_unanswered_costs_one_more_try() -> None:
    async def answer(number: int, head: bytes, body: bytes) -> bytes | None:
        return None if number % 50 == 0 else OK

    async with serving(answer) as url:
        found = await load(url)
    assert found.statuses == {200: found.sent}


async def test_a_server_that_answers_nobody_loses_all() -> None:
    async def answer(number: int, head: bytes, body: bytes) -> bytes | None:
        return None

    async with serving(answer) as url:
        found = await load(url)
    assert (found.ok, found.lost, found.goodput) == (0, found.sent, 0.0)
    assert found.sent > 0


async def test_latency_counts_from_when_a_request_was_due() -> None:
    """One connection and a server that stalls once: who had to wait for it is late, too."""
    stalled = 0.5

    async def answer(number: int, head: bytes, body: bytes) -> bytes:
        if number == 100:
            await asyncio.sleep(stalled)
        return OK

    async with serving(answer) as url:
        found = await load(url, connections=1, target=stalled * 500)
    late = sum(found.statuses.values()) - found.goodput
    assert found.waited > 50  # 150 were due meanwhile
    assert late > 20  # by more than half of the stall: half of them, and the one that stalled
    assert found.latency["max"] >= stalled * 1000


async def test_it_waits_for_answers_only_so_long() -> None:
    never = asyncio.Event()

    async def answer(number: int, head: bytes, body: bytes) -> bytes | None:
        if number > 10:
            await never.wait()
        return OK

    async with serving(answer) as url:
        found = await load(url, warmup=0.0, grace=0.1, connections=2000)
        never.set()
    assert (found.ok, found.lost) == (10, found.sent - 10)


async def test_chunks_are_refused_in_words() -> None:
    async def answer(number: int, head: bytes, body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"

    async with serving(answer) as url:
        with pytest.raises(LoadFailed, match="chunks"):
            await load(url)


def test_without_a_compiler_the_cure_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openloop, "BUILD", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="apt-get install"):
        openloop.binary()
