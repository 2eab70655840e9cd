"""What becomes of a batch whose worker dies or is too slow, and of a request whose client goes."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, send, until
from tests.fakes import hold, run_virtual
from ts_frontend.core.dispatch import death_status
from ts_frontend.core.slot import BACK_OFF
from ts_frontend.errors import Internal, RequestTimeout
from ts_worker.backend.base import ExitReason


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
            tasks = [send(rig) for _ in range(4)]  # two for each
            first, second = rig.backend.workers
            await first.received()
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
