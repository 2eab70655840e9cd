"""What the tests of `torchserve-py bench` share: targets on this machine, and servers that say what
a test has them say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.first import check
from ts_frontend.bench.plan import Input, Target

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def target(port: int, *inputs: Input, **fields: object) -> Target:
    sent = inputs or (Input(b"hello"),)
    return Target("127.0.0.1", port, "/predictions/m", sent, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[int]:
    """A server of raw bytes; its port."""
    talking: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            talking.discard(task)
            writer.close()

    listening = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for task in list(talking):
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)
        await listening.wait_closed()


async def read(reader: asyncio.StreamReader) -> None:
    """One request with the body hello."""
    await reader.readuntil(b"hello")


async def read_on(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def refusal(aimed: Target, token_from: str | None = None) -> str:
    with pytest.raises(BenchError) as raised:
        await check(aimed, "http://it", token_from)
    return str(raised.value)
