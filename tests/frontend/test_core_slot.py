"""One worker through its life: loading, failing, back-off, health, and what it says meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import logging

import pytest

from tests.core_rig import Rig, never, states, until
from tests.fakes import LoadFailed, hold, make_request, run_virtual
from ts_frontend.core.slot import BACK_OFF, State
from ts_frontend.errors import Internal
from ts_worker.backend.base import WorkerSpec
from ts_worker.messages import Call, Log, Metric


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ValueError: no weights", "Traceback\n  line\nValueError: no weights")


def test_the_back_off_table_and_the_retry_window(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add()
            rig.supervisor.scale(model, 1, 1)
            await asyncio.sleep(250)
            assert rig.backend.start_times == [0, 1, 2, 4, 7, 12, 20, 33, 54, 88, 143, 232]
            await asyncio.sleep(10_000)
            assert rig.backend.start_times[12:] == [376]
            assert states(model) == [State.DEAD]

    run_virtual(main)
    assert "Retry worker: 9000 in 144 seconds." in caplog.text
    assert caplog.text.count("Auto recovery start timestamp: ") == 1
    assert caplog.text.count("Auto recovery failed again") == 12
    assert "ValueError: no weights" in caplog.text


def test_back_off_is_fibonacci_up_to_1597() -> None:
    assert all(a + b == c for a, b, c in zip(BACK_OFF, BACK_OFF[1:], BACK_OFF[2:], strict=False))
    assert (BACK_OFF[:3], BACK_OFF[-1]) == ((1, 1, 2), 1597)


def test_health_lasts_for_the_retry_window_and_recovery_resets_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(max_retry_timeout=10)
            assert rig.inference.healthy()
            rig.backend.load = refuse
            rig.worker.die(1, None)
            await asyncio.sleep(9.9)
            assert rig.inference.healthy()
            assert rig.backend.start_times == [0, 1, 2, 4, 7]
            await asyncio.sleep(0.2)
            assert not rig.inference.healthy()
            rig.backend.load = None  # the attempt at 12 works
            await rig.backend.until(lambda: len(rig.backend.workers) == 2)
            await until(lambda: states(model) == [State.READY])
            assert rig.inference.healthy()
            rig.worker.die(1, None)
            await rig.backend.until(lambda: len(rig.backend.workers) == 3)
            assert rig.backend.start_times[-2:] == [12, 13]  # the table starts over

    run_virtual(main)
    assert "Auto recovery succeeded, reset recoveryStartTS" in caplog.text
    assert "Worker disconnected" in caplog.text


def test_no_retries_without_a_window() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add(max_retry_timeout=0)
            rig.supervisor.scale(model, 1, 1)
            await asyncio.sleep(5000)
            assert rig.backend.start_times == [0]
            assert not rig.inference.healthy()

    run_virtual(main)


def test_ping_wants_the_minimum_of_default_versions_only() -> None:
    async def main() -> None:
        async with Rig() as rig:
            assert rig.inference.healthy()
            await rig.serve(workers=2)
            other = rig.add(version="2.0")
            other.min_workers = 5
            assert rig.inference.healthy()
            rig.catalog.set_default("m", "2.0")
            assert not rig.inference.healthy()

    run_virtual(main)


def test_a_worker_that_still_starts_is_healthy_but_not_ready() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = never
            model = rig.add()
            rig.supervisor.scale(model, 1, 1)
            await rig.backend.until(lambda: rig.backend.starting == 1)
            assert rig.inference.healthy()
            assert states(model) == [State.STARTING]
            assert model.slots[0].pid == 4_000_000

    run_virtual(main)


def test_a_failed_start_carries_cause_and_traceback() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add()
            change = rig.supervisor.scale(model, 2, 2)
            with pytest.raises(Internal) as caught:
                await rig.supervisor.settle(change, "1.0")
            assert caught.value.status == 500
            assert caught.value.message == (
                "Failed to start workers for model m version: 1.0\nValueError: no weights\n"
                "Traceback\n  line\nValueError: no weights"
            )
            with pytest.raises(Internal, match=r"^Failed to start .* version: null\n"):
                await rig.supervisor.settle(change, None)
            assert model.slots[0].error == "ValueError: no weights"

    run_virtual(main)


@pytest.mark.parametrize(("code", "status"), [(507, 507), (413, 507), (500, 500)])
def test_a_failed_start_keeps_the_code_of_the_worker(code: int, status: int) -> None:
    async def main() -> None:
        async def load(spec: WorkerSpec) -> None:
            raise LoadFailed(code, "System out of memory")

        async with Rig() as rig:
            rig.backend.load = load
            model = rig.add()
            with pytest.raises(Internal) as caught:
                await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), "1.0")
            assert caught.value.status == status

    run_virtual(main)


def test_a_start_that_takes_too_long_is_cancelled_and_tried_again() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = never
            model = rig.add(startup_timeout=30)
            with pytest.raises(Internal, match="did not load within startupTimeout=30 s"):
                await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), "1.0")
            assert asyncio.get_running_loop().time() == 30
            assert rig.backend.killed == 1
            rig.backend.load = None
            await rig.backend.until(lambda: bool(rig.backend.workers))
            assert rig.backend.start_times == [0, 31]

    run_virtual(main)


def test_a_backend_that_can_not_fork_is_a_failed_load() -> None:
    async def main() -> None:
        async def load(spec: WorkerSpec) -> None:
            raise OSError(11, "Resource temporarily unavailable")

        async with Rig() as rig:
            rig.backend.load = load
            model = rig.add()
            with pytest.raises(Internal, match="Resource temporarily unavailable"):
                await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), "1.0")

    run_virtual(main)


def test_a_bug_in_a_start_is_logged_and_leaves_a_dead_slot(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async def load(spec: WorkerSpec) -> None:
            raise ZeroDivisionError("bug")

        async with Rig() as rig:
            rig.backend.load = load
            model = rig.add()
            with pytest.raises(Internal):
                await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), "1.0")
            assert states(model) == [State.DEAD]
            assert model.slots[0].error == "bug"

    run_virtual(main)
    assert "W-9000-m_1.0 is lost" in caplog.text


def test_a_worker_keeps_its_device_when_it_is_restarted() -> None:
    async def main() -> None:
        async with Rig() as rig:
            turn = itertools.count()
            model = rig.add(next_device=lambda: next(turn))
            await rig.supervisor.settle(rig.supervisor.scale(model, 2, 2), None)
            rig.backend.workers[0].die(None, 9)
            await rig.backend.until(lambda: len(rig.backend.workers) == 3)
            assert [(spec.id, spec.device) for spec in rig.backend.specs] == [
                ("9000", 0),
                ("9001", 1),
                ("9000", 0),
            ]

    run_virtual(main)


def test_what_a_worker_says_goes_to_log_and_meter() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.serve()
            events = rig.backend.specs[0].events
            events.output("stdout", "a print")
            events.output("stderr", "a warning")
            events.log(Log(logging.ERROR, "handler", "two\nlines", "id-1,id-2"))
            metric = Metric("HandlerTime", "Milliseconds", "gauge", 1.5, (), "")
            events.metric(metric)
            name = "W-9000-m_1.0"
            assert rig.log.lines == [
                (name, "stdout", logging.INFO, "a print"),
                (name, "stderr", logging.WARNING, "a warning"),
                (name, "stdout", logging.ERROR, "two\nlines"),
            ]
            assert rig.log.fields[-2:] == [("m", "1.0", ""), ("m", "1.0", "id-1,id-2")]
            assert rig.meter.metrics == [metric]

    run_virtual(main)


def test_a_handler_may_call_another_model() -> None:
    async def main() -> None:
        async with Rig() as rig:
            await rig.serve("caller")
            await rig.serve("m", version="2")
            events = rig.backend.specs[0].events
            request = make_request(b"inner")
            good = await events.call(Call(7, "m", "", request))
            assert (good.call_id, good.code) == (7, 200)
            assert good.response is not None
            assert (good.response.request_id, good.response.body) == (request.id, b"inner")
            bad = await events.call(Call(8, "m", "3", request))
            assert (bad.code, bad.response) == (404, None)
            assert bad.message == "Model version: 3 does not exist for model: m"

    run_virtual(main)


def test_a_call_gets_a_streamed_answer_whole() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            call = Call(1, "m", "1.0", make_request(b"end"))
            task = asyncio.create_task(rig.backend.specs[0].events.call(call))
            await rig.worker.received()
            rig.worker.chunk(b"be")
            rig.worker.chunk(b"tween ")
            rig.worker.finish()
            reply = await task
            assert reply.response is not None
            assert reply.response.body == b"between end"

    run_virtual(main)
