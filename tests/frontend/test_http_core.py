"""Clients that repeat their requests, over a whole core with a worker in memory.

test_http_uvloop runs these tests once more.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import pytest

from tests.core_rig import Rig
from tests.fakes import hold
from tests.frontend.http_fakes import edge, until
from tests.frontend.http_kept import Kept, M, ask
from ts_frontend.core.job import STREAM_BYTES
from ts_frontend.core.model import ModelVersion


@asynccontextmanager
async def repeating(
    count: int, **settings: Any
) -> AsyncIterator[tuple[Rig, ModelVersion, list[Kept]]]:
    """Some clients whose requests the model has: the first one's is with the worker, the others'
    wait in the queue. None of them needed a parser."""
    async with AsyncExitStack() as stack:
        rig = await stack.enter_async_context(Rig(behaviour=hold))
        e = await stack.enter_async_context(edge())
        model = await rig.serve(**settings)
        cast(Any, e).inference.predict = rig.inference.predict
        cast(Any, e).inference.submit = rig.inference.submit
        clients = [await stack.enter_async_context(Kept(e)) for _ in range(count)]
        for client in clients:
            client.writer.write(ask(M, b"first"))
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish()
            await client.said()
        pump = model.slots[0]._pump
        assert pump is not None
        pump._pace = 1.0  # a slow worker is sent nothing ahead
        for waiting, client in enumerate(clients):
            client.writer.write(ask(M, b"second"))
            await until(lambda: bool(rig.worker.current) and len(model.queue) == waiting)  # noqa: B023
        yield rig, model, clients
        for client in clients:
            await client.close()
        await model.queue.join()
        assert model.queue._unfinished == 0


async def test_who_goes_away_leaves_the_queue_and_its_worker() -> None:
    async with repeating(3) as (rig, model, (first, second, third)):
        second.writer.transport.abort()
        await until(lambda: len(model.queue) == 1)
        assert rig.worker.cancelled == []
        first.writer.transport.abort()
        await until(lambda: bool(rig.worker.cancelled))
        rig.worker.finish()
        await until(lambda: bool(rig.worker.current))
        rig.worker.finish()
        assert (await third.said()).body == b"second"


async def test_the_end_of_a_worker_is_a_500_for_who_it_answered_and_for_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ts_frontend.core.slot.BACK_OFF", (0,))
    async with repeating(3) as (rig, _, (first, *others)):
        dead = rig.worker
        dead.die(1, None)
        said = await first.said()
        assert said.head.startswith(b"HTTP/1.1 500 ")
        assert b"Worker died." in said.body
        assert said.closes
        for other in others:
            await until(lambda: rig.worker is not dead and bool(rig.worker.current))
            rig.worker.finish()
            assert (await other.said()).body == b"second"


async def test_a_full_queue_refuses_and_closes() -> None:
    async with repeating(3) as (rig, model, (first, second, third)):
        model.queue.capacity = 1
        rig.worker.finish()
        assert (await first.said()).body == b"second"
        await until(lambda: bool(rig.worker.current))
        first.writer.write(ask(M, b"third"))
        said = await first.said()
        assert said.head.startswith(b"HTTP/1.1 503 ")
        assert b"has no worker to serve inference request" in said.body
        assert said.closes
        for other in (second, third):
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish()
            assert (await other.said()).body == b"second"


async def test_a_stream_that_nobody_reads_ends_with_its_client() -> None:
    async with repeating(1) as (rig, model, (client,)):
        rig.worker.chunk(b"one")
        rig.worker.chunk(bytes(2 * STREAM_BYTES))
        assert rig.worker.held
        client.writer.transport.abort()
        await until(lambda: bool(rig.worker.cancelled))
        assert not rig.worker.held
        await model.queue.join()
        rig.worker.finish()
