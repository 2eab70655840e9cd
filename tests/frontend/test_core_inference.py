"""`Inference.submit`: a request with a callback, which its caller may give up at any time."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, send, until
from tests.fakes import FakeWorker, hold, make_request, run_virtual
from ts_frontend.core.inference import Pending, describe_itself
from ts_frontend.core.job import STREAM_BYTES, Answer
from ts_frontend.core.slot import BACK_OFF
from ts_frontend.errors import (
    Internal,
    ModelNotFound,
    RequestTimeout,
    ServeError,
    ServiceUnavailable,
    VersionNotFound,
)
from ts_worker.backend.base import ReplySink
from ts_worker.messages import Predict


class Caller:
    """Keeps what its requests came to."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self.heard: list[Answer | ServeError] = []

    def submit(self, body: bytes = b"hello", version: str | None = None) -> Pending:
        return self._rig.inference.submit("m", version, make_request(body), self.heard.append)

    @property
    def bodies(self) -> list[bytes]:
        return [bytes(one.body) for one in self.heard if isinstance(one, Answer)]


def test_the_callback_hears_the_answer_once_and_without_a_turn_of_the_loop() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(client_timeout=100)
            caller = Caller(rig)
            pending = caller.submit(b"1", "1.0")
            await rig.worker.received()
            assert caller.heard == []
            rig.worker.finish()
            assert caller.heard == [Answer(200, "", b"", b"1")]
            assert len(rig.meter.models["m", "1.0"].answers) == 1
            await model.queue.join()
            pending.abandon()  # too late to matter
            assert pending.job.timer is not None
            assert pending.job.timer.cancelled()
            assert len(caller.heard) == 1
            assert rig.worker.cancelled == []
            assert model.queue._unfinished == 0

    run_virtual(main)


def test_what_cannot_be_queued_is_raised_and_not_told() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            caller = Caller(rig)
            with pytest.raises(ModelNotFound):
                caller.submit()
            model = rig.add(job_queue_size=1)
            with pytest.raises(ServiceUnavailable):
                caller.submit()
            with pytest.raises(VersionNotFound):
                caller.submit(version="9")
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), None)
            caller.submit()
            await rig.worker.received()
            caller.submit()
            with pytest.raises(ServiceUnavailable):
                caller.submit()
            assert caller.heard == []
            for _ in range(2):
                await until(lambda: bool(rig.worker.current))
                rig.worker.finish()
            await model.queue.join()
            assert len(caller.heard) == 2

    run_virtual(main)


def test_who_gives_up_while_it_waits_leaves_the_queue() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(client_timeout=100)
            caller = Caller(rig)
            caller.submit(b"1")
            await rig.worker.received()
            second, _ = caller.submit(b"2"), caller.submit(b"3")
            for _ in range(2):  # may be repeated
                second.abandon()
            assert len(model.queue) == 1
            rig.worker.finish()
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish()
            assert caller.bodies == [b"1", b"3"]
            assert rig.worker.cancelled == []
            await model.queue.join()
            assert second.job.timer is not None
            assert second.job.timer.cancelled()
            assert len(caller.heard) == 2

    run_virtual(main)


def test_who_gives_up_a_request_that_runs_has_its_worker_told() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            caller = Caller(rig)
            pending = caller.submit()
            await rig.worker.received()
            pending.abandon()
            pending.abandon()
            assert rig.worker.cancelled == [pending.job.request.id]
            await model.queue.join()
            rig.worker.finish()
            assert caller.heard == []
            assert rig.meter.models["m", "default"].answers == []
            caller.submit(b"next")
            await rig.worker.received(2)
            rig.worker.finish()
            assert caller.bodies == [b"next"]

    run_virtual(main)


def test_who_gives_up_a_stream_closes_it_and_frees_its_worker() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            caller = Caller(rig)
            pending = caller.submit()
            await rig.worker.received()
            rig.worker.chunk(b"first")
            assert caller.bodies == [b"first"]
            rig.worker.chunk(bytes(STREAM_BYTES))
            assert rig.worker.held  # nobody reads
            pending.abandon()
            pending.abandon()
            assert rig.worker.cancelled == [pending.job.request.id]
            assert not rig.worker.held
            await model.queue.join()
            assert rig.meter.models["m", "default"].answers == []
            rig.worker.chunk(b"more")
            rig.worker.finish()
            assert len(caller.heard) == 1
            assert model.queue._unfinished == 0

    run_virtual(main)


def test_a_stream_that_has_ended_is_not_cancelled() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            caller = Caller(rig)
            pending = caller.submit()
            await rig.worker.received()
            rig.worker.chunk(b"first")
            rig.worker.finish()
            pending.abandon()
            assert rig.worker.cancelled == []
            assert len(rig.meter.models["m", "default"].answers) == 1
            await model.queue.join()

    run_virtual(main)


def test_what_was_given_up_is_not_put_back_when_its_worker_dies() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=1)
            caller = Caller(rig)
            _, second, _ = (caller.submit(b"%d" % n) for n in range(3))
            await rig.worker.received(2)
            second.abandon()
            dead = rig.worker
            dead.die(1, None)
            await asyncio.sleep(BACK_OFF[0] + 1)
            assert rig.worker is not dead
            rig.worker.finish()
            assert [type(one) for one in caller.heard] == [Internal, Answer]
            assert caller.bodies == [b"2"]
            assert len(rig.worker.batches) == 1
            await model.queue.join()

    run_virtual(main)


def test_a_request_that_takes_too_long_is_told_and_cancelled() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(client_timeout=1)
            caller = Caller(rig)
            running = caller.submit()
            await rig.worker.received()
            caller.submit()
            await asyncio.sleep(2)
            assert [type(one) for one in caller.heard] == [RequestTimeout] * 2
            assert rig.worker.cancelled == [running.job.request.id]
            rig.worker.finish()
            await model.queue.join()
            assert len(caller.heard) == 2

    run_virtual(main)


def test_a_callback_may_be_called_while_another_request_is_submitted() -> None:
    """A busy worker is sent its next batch at once, and that may fail."""

    def fail_at_the_second(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        if len(worker.batches) > 1:
            raise ValueError("a bug")

    async def main() -> None:
        async with Rig(behaviour=fail_at_the_second) as rig:
            model = await rig.serve(prefetch=1)
            caller = Caller(rig)
            caller.submit()
            await rig.worker.received()
            for slot in model.slots:
                assert slot._pump is not None
                slot._pump._pace = 1.0
            caller.submit(b"second")
            assert [type(one) for one in caller.heard] == [Internal]
            await asyncio.sleep(BACK_OFF[0] + 1)
            rig.worker.finish()
            assert caller.bodies == [b"second"]
            await model.queue.join()

    run_virtual(main)


def test_a_callback_may_ask_again() -> None:
    """As a client does whose next request waits already."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(batch_size=2)
            caller = Caller(rig)

            def again(outcome: Answer | ServeError) -> None:
                caller.heard.append(outcome)
                caller.submit(b"again")

            rig.inference.submit("m", None, make_request(b"1"), again)
            caller.submit(b"2")
            await rig.worker.received()
            rig.worker.finish()
            assert caller.bodies == [b"1", b"2"]
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish()
            assert caller.bodies[2:] == [b"again"]
            await model.queue.join()

    run_virtual(main)


@pytest.mark.parametrize("kind", ["predict", "describe"])
@pytest.mark.parametrize("code", [200, 500])
def test_an_answer_in_the_turn_in_which_its_task_is_cancelled_hurts_no_worker(
    kind: str, code: int
) -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            if kind == "predict":
                task = send(rig)
            else:
                task = asyncio.create_task(describe_itself(model, make_request()))
            await rig.worker.received()
            task.cancel()
            rig.worker.finish(code)
            await asyncio.wait([task])
            assert task.cancelled()
            await model.queue.join()
            assert model.queue._unfinished == 0
            task = send(rig)
            await rig.worker.received(2)
            rig.worker.finish()
            assert (await task).body == b"hello"
            assert len(rig.backend.workers) == 1

    run_virtual(main)
