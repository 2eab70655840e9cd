"""A request's way through inference, queue and pump, with a worker in memory."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, until
from tests.fakes import hold, make_request, run_virtual
from ts_frontend.core.dispatch import death_status
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import STREAM_BYTES, Answer, Stream
from ts_frontend.core.slot import BACK_OFF
from ts_frontend.errors import (
    Internal,
    ModelNotFound,
    RequestTimeout,
    ServiceUnavailable,
    VersionNotFound,
)
from ts_worker.backend.base import ExitReason
from ts_worker.messages import Reply, Response


def send(rig: Rig, body: bytes = b"hello", version: str | None = None) -> asyncio.Task[Answer]:
    return asyncio.create_task(rig.inference.predict("m", version, make_request(body)))


def test_the_answer_comes_back_with_its_measures() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.serve()
            answer = await send(rig, b"payload")
            assert answer == Answer(200, "", b"", b"payload")
            await send(rig, version="1.0")
            default, named = rig.meter.models["m", "default"], rig.meter.models["m", "1.0"]
            assert (default.requests, named.requests) == (1, 1)
            ((total, queued),) = default.answers
            assert total >= queued >= 0
            assert len(rig.meter.queue_times) == 2
            await until(lambda: len(rig.meter.thread_times) == 2)
            assert [name for name, _ in rig.meter.load_times] == ["W-9000-m_1.0"]

    run_virtual(main)


def test_requests_that_wait_for_a_busy_worker_form_one_batch() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=8)
            tasks = [send(rig, b"0")]
            await rig.worker.received()
            tasks += [send(rig, b"%d" % n) for n in range(1, 12)]
            for expected in (1, 8, 3):
                await until(lambda: bool(rig.worker.current))
                assert len(rig.worker.current[0][0].requests) == expected
                rig.worker.finish()
            answers = await asyncio.gather(*tasks)
            assert [answer.body for answer in answers] == [b"%d" % n for n in range(12)]

    run_virtual(main)


def test_a_batch_for_a_worker_that_has_just_ended_goes_to_the_next() -> None:
    """Its last answer is read after its end: nobody has begun what comes then."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            ended = rig.worker
            tasks = [send(rig, b"0"), send(rig, b"1")]
            await ended.received()
            ended.die_with_an_answer()
            assert (await tasks[0]).body == b"0"
            await asyncio.sleep(BACK_OFF[0])
            await until(lambda: rig.worker is not ended)
            await rig.worker.received()
            rig.worker.finish()
            assert (await tasks[1]).body == b"1"

    run_virtual(main)


@pytest.mark.parametrize("ended", [True, False])
def test_a_batch_that_the_worker_has_not_begun_goes_to_the_next(ended: bool) -> None:
    """Whether the worker is ended first, or the batch has waited as long as a worker may take."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=7)
            stuck = rig.worker
            stuck.begun = False
            task = send(rig, b"0")
            await stuck.received()
            await asyncio.sleep(6)
            if ended:
                stuck.die(None, None, timed_out=True)
            await asyncio.sleep(1 + BACK_OFF[0])
            await until(lambda: rig.worker is not stuck)
            await rig.worker.received()
            rig.worker.finish()
            assert (await task).body == b"0"
            assert rig.meter.version("m", "1.0").restarts == ["timeout"]

    run_virtual(main)


def test_a_batch_may_be_answered_in_pieces_and_in_any_order() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=3)
            tasks = [send(rig, b"%d" % n) for n in range(3)]
            await rig.worker.received()
            batch, reply = rig.worker.current[0]
            for index in (2, 0):
                row = Response(batch.requests[index].id, 201, "Made", b"a\0b", b"x")
                reply(Reply(batch.batch_id, 200, "", (row,)))
            assert (await tasks[2]).status == 201
            assert (await tasks[0]).headers == b"a\0b"
            # Unknown rows and other batches change nothing.
            stranger = Response(b"-" * 36, 200, "", b"", b"")
            reply(Reply(batch.batch_id, 200, "", (stranger,)))
            reply(Reply(batch.batch_id + 7, 500, "late", ()))
            assert not tasks[1].done()
            rig.worker.finish()
            assert (await tasks[1]).body == b"1"

    run_virtual(main)


def test_an_error_code_answers_the_whole_batch_and_413_becomes_507() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=2)
            for code, status in ((503, 503), (413, 507), (418, 418)):
                tasks = [send(rig), send(rig)]
                await until(lambda: bool(rig.worker.current))
                rig.worker.finish(code, "Prediction failed")
                for task in tasks:
                    with pytest.raises(Internal, match=r"^Prediction failed$") as caught:
                        await task
                    assert caught.value.status == status
            assert rig.meter.models["m", "default"].answers == []
            assert len(rig.backend.alive) == 1

    run_virtual(main)


def test_an_error_may_name_some_requests_of_the_batch() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=3)
            tasks = [send(rig, b"%d" % n) for n in range(3)]
            await rig.worker.received()
            batch, reply = rig.worker.current[0]
            named = Response(batch.requests[1].id, 413, "", b"", b"")
            reply(Reply(batch.batch_id, 413, "too odd", (named,)))
            with pytest.raises(Internal, match=r"^too odd$") as caught:
                await tasks[1]
            assert caught.value.status == 507
            assert not tasks[0].done()
            row = Response(batch.requests[0].id, 200, "", b"", b"0")
            reply(Reply(batch.batch_id, 200, "", (row,)))
            assert (await tasks[0]).body == b"0"
            reply(Reply(batch.batch_id, 503, "all that are left", ()))
            with pytest.raises(Internal, match="all that are left"):
                await tasks[2]
            rig.worker.current.clear()
            assert len(rig.meter.version("m", "1.0").batches) == 1
            task = send(rig)  # the worker is free again
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish()
            await task

    run_virtual(main)


def test_a_reply_that_answers_nobody_is_a_sign_of_life() -> None:
    """A batch that is run again row by row may take longer in all than one answer may."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=10)
            task = send(rig)
            await rig.worker.received()
            batch, reply = rig.worker.current[0]
            for _ in range(3):
                await asyncio.sleep(8)
                reply(Reply(batch.batch_id, 200, "", ()))
            rig.worker.finish()
            assert (await task).body == b"hello"

    run_virtual(main)


def test_unknown_models_and_versions_have_their_texts() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.serve()
            with pytest.raises(ModelNotFound, match=r"^Model not found: other$"):
                rig.inference.find("other", None)
            text = r"^Model version: 9 does not exist for model: m$"
            with pytest.raises(VersionNotFound, match=text):
                await rig.inference.predict("m", "9", make_request())
            rig.inference.find("m", "1.0")

    run_virtual(main)


def test_no_worker_and_a_full_queue_are_503_with_one_text() -> None:
    async def main() -> None:
        rest = (
            " has no worker to serve inference request. Please use scale workers API to add "
            "workers. If this is a sequence inference, please check if it is closed, or expired; "
            "or exceeds maxSequenceJobQueueSize"
        )
        async with Rig(behaviour=hold) as rig:
            model = rig.add(job_queue_size=2)
            with pytest.raises(ServiceUnavailable) as caught:
                await send(rig)
            assert caught.value.message == 'Model "m"' + rest
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), None)
            tasks = [send(rig)]
            await rig.worker.received()
            tasks += [send(rig), send(rig)]
            await asyncio.sleep(0)
            with pytest.raises(ServiceUnavailable) as caught:
                await send(rig, version="1.0")
            assert caught.value.message == 'Model "m" Version 1.0"' + rest
            assert rig.meter.models["m", "default"].requests == 4  # the refused one as well
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run_virtual(main)


def test_a_response_timeout_kills_the_worker_and_fails_its_batch_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=7)
            task = send(rig)
            await rig.worker.received()
            waiting = send(rig)
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await task
            assert caught.value.status == 500
            assert asyncio.get_running_loop().time() == pytest.approx(7)
            await rig.backend.until(lambda: len(rig.backend.workers) == 2)
            assert rig.backend.workers[0].stops[0] == 0
            await rig.worker.received()
            rig.worker.finish()
            assert (await waiting).body == b"hello"

    run_virtual(main)
    assert "Backend worker did not respond in given time" in caplog.text
    assert "Number or consecutive unsuccessful inference 1" in caplog.text


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


@pytest.mark.parametrize(
    ("code", "signal", "status"),
    [(1, None, 500), (None, 11, 500), (None, 9, 507), (137, None, 507)],
)
def test_a_dead_worker_fails_its_own_batch_only(
    code: int | None, signal: int | None, status: int
) -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(workers=2, batch_size=2)
            tasks = [send(rig), send(rig)]
            await asyncio.sleep(0.1)
            tasks += [send(rig), send(rig)]
            first, second = rig.backend.workers
            await second.received()
            waiting = send(rig)
            first.die(code, signal)
            for task in tasks[:2]:
                with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                    await task
                assert caught.value.status == status
            second.finish()
            await asyncio.gather(*tasks[2:])
            await until(lambda: bool(second.current))
            second.finish()
            assert (await waiting).status == 200

    run_virtual(main)


def test_death_status() -> None:
    assert death_status(ExitReason(0, None, "")) == 500
    assert death_status(ExitReason(None, 9, "")) == 507


def test_cancelling_a_waiting_request_takes_it_out_of_the_queue() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            running, waiting = send(rig), send(rig)
            await rig.worker.received()
            assert len(model.queue) == 1
            waiting.cancel()
            await asyncio.wait([waiting])
            assert len(model.queue) == 0
            assert rig.worker.cancelled == []
            rig.worker.finish()
            await running
            await model.queue.join()

    run_virtual(main)


def test_cancelling_a_running_request_tells_its_worker_and_spares_the_batch() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(batch_size=2)
            gone, stays = send(rig, b"gone"), send(rig, b"stays")
            await rig.worker.received()
            gone.cancel()
            await asyncio.wait([gone])
            assert rig.worker.cancelled == [rig.worker.batches[0].requests[0].id]
            rig.worker.finish()
            assert (await stays).body == b"stays"
            await model.queue.join()

    run_virtual(main)


def test_the_late_answer_of_an_expired_request_is_dropped_and_the_worker_goes_on() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=1500)
            with pytest.raises(RequestTimeout, match="not answered by its worker"):
                await send(rig)
            second = send(rig)
            await asyncio.sleep(1)
            assert len(rig.worker.batches) == 1
            rig.worker.finish()
            await rig.worker.received(2)
            rig.worker.finish()
            assert (await second).status == 200

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


def test_a_bug_of_the_backend_fails_the_batch_and_replaces_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("a bug")

        async with Rig(behaviour=broken) as rig:
            await rig.serve()
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await send(rig)
            await rig.backend.until(lambda: len(rig.backend.workers) == 2)

    run_virtual(main)
    (record,) = [record for record in caplog.records if "dispatch failed" in record.message]
    assert record.exc_info is not None


def test_a_batch_that_could_not_even_be_timed_is_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.serve(response_timeout=10**400)  # no float
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await send(rig)

    run_virtual(main)
    assert "OverflowError" in caplog.text


def test_describe_goes_through_the_queue_and_names_its_own_failure() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = rig.add(response_timeout=3, batch_size=4)
            with pytest.raises(ServiceUnavailable) as refused:
                await describe_itself(model, make_request())
            assert refused.value.message == (
                'Model "m" has no worker to serve describe request. '
                "Please use scale workers API to add workers."
            )
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), None)
            with pytest.raises(Internal, match=r"^Failed to get customized model matadata\.$"):
                await describe_itself(model, make_request())
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
