"""A request's way through inference, queue and pump, with a worker in memory."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, send, until
from tests.fakes import hold, make_request, run_virtual
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer
from ts_frontend.errors import Internal, ModelNotFound, ServiceUnavailable, VersionNotFound
from ts_worker.messages import Reply, Response


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
