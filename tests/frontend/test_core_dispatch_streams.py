"""A streamed answer's way from a worker in memory: its parts, its end, and readers that leave."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, send, until
from tests.fakes import hold, run_virtual
from ts_frontend.core.job import STREAM_BYTES, Answer, Stream
from ts_frontend.errors import Internal


def test_each_message_of_a_stream_gets_a_response_timeout_of_its_own() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=10)
            task = send(rig)
            await rig.worker.received()
            for _ in range(4):
                await asyncio.sleep(9)
                rig.worker.chunk(b"x")
            await asyncio.sleep(9)
            rig.worker.finish()
            chunks = (await task).chunks
            assert chunks is not None
            assert b"".join([bytes(part) async for part in chunks]) == b"xxxhello"
            # A batch that begins when the timer of an earlier one still runs has its full time.
            task = send(rig)
            await asyncio.sleep(9)
            assert not task.done()
            rig.worker.finish()
            await task

    run_virtual(main)


async def streaming(rig: Rig) -> tuple[Answer, Stream]:
    task = send(rig)
    await until(lambda: bool(rig.backend.workers and rig.worker.current))
    rig.worker.chunk(b"first")
    answer = await task
    assert answer.body == b"first"
    assert answer.chunks is not None
    return answer, answer.chunks


def test_a_stream_ends_with_the_final_answer_and_then_counts() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            _, chunks = await streaming(rig)
            rig.worker.chunk(b"")
            rig.worker.chunk(b"second")
            assert await anext(chunks) == b"second"
            reading = asyncio.ensure_future(anext(chunks))
            await asyncio.sleep(0)
            assert rig.meter.models["m", "default"].answers == []
            rig.worker.finish()
            assert await reading == b"hello"
            assert [part async for part in chunks] == []
            assert len(rig.meter.models["m", "default"].answers) == 1
            await model.queue.join()
            await chunks.aclose()
            assert rig.worker.cancelled == []

    run_virtual(main)


def test_a_stream_breaks_off_when_its_worker_dies() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            _, chunks = await streaming(rig)
            rig.worker.chunk(b"second")
            rig.worker.die(1, None)
            assert await anext(chunks) == b"second"
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await anext(chunks)
            assert rig.meter.models["m", "default"].answers == []
            await model.queue.join()

    run_virtual(main)


def test_a_stream_breaks_off_at_a_part_that_is_too_long() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(max_response_size=5)
            _, chunks = await streaming(rig)
            rig.worker.chunk(b"longer")
            with pytest.raises(Internal, match="of 6 bytes is longer than max_response_size=5"):
                await anext(chunks)
            assert rig.worker.cancelled == [rig.worker.batches[0].requests[0].id]
            rig.worker.chunk(b"more")
            rig.worker.finish()
            await model.queue.join()
            assert rig.backend.alive == [rig.worker]

    run_virtual(main)


def test_closing_a_stream_cancels_the_request() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            _, chunks = await streaming(rig)
            await chunks.aclose()
            await chunks.aclose()
            assert len(rig.worker.cancelled) == 1
            rig.worker.chunk(b"ignored")
            assert [part async for part in chunks] == []
            await model.queue.join()
            rig.worker.finish()
            # The worker is free again.
            task = send(rig)
            await rig.worker.received(2)
            rig.worker.finish()
            await task

    run_virtual(main)


def test_a_caller_that_goes_as_its_stream_begins_cancels_it() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            task = send(rig)
            await rig.worker.received()
            rig.worker.chunk(b"first")
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert len(rig.worker.cancelled) == 1
            await model.queue.join()

    run_virtual(main)


def test_a_worker_is_held_for_a_slow_reader_and_not_blamed_for_it() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=10)
            task = send(rig)
            await rig.worker.received()
            rig.worker.chunk(b"first")
            stream = (await task).chunks
            assert stream is not None
            rig.worker.chunk(bytes(STREAM_BYTES))
            assert rig.worker.held
            await asyncio.sleep(100)
            assert not rig.worker.stops
            assert len(await anext(stream)) == STREAM_BYTES
            assert not rig.worker.held
            rig.worker.finish()
            assert [bytes(part) async for part in stream] == [b"hello"]

    run_virtual(main)
