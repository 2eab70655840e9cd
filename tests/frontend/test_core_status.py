"""How versions stand, and what a version's meter is told, with workers in memory."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.core_rig import Rig, never, until
from tests.fakes import LoadFailed, hold, make_request, run_virtual
from ts_frontend.core.slot import State
from ts_frontend.core.status import STATES, Status, VersionStatus
from ts_worker.backend.base import WorkerSpec


def look(rig: Rig) -> list[VersionStatus]:
    return Status(rig.catalog).versions(lambda *key: rig.meter.version(*key).slots)


def send(rig: Rig, *bodies: bytes) -> list[asyncio.Task[Any]]:
    return [
        asyncio.create_task(rig.inference.predict("m", None, make_request(body))) for body in bodies
    ]


async def finish(rig: Rig, tasks: list[asyncio.Task[Any]]) -> None:
    while not all(task.done() for task in tasks):
        await until(lambda: bool(rig.worker.current) or all(task.done() for task in tasks))
        if rig.worker.current:
            rig.worker.finish()


def test_a_version_without_workers() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.add()
            rig.add(version="2.0")
            first, second = look(rig)
            assert first == VersionStatus("m", "1.0", True, 0, 0.0, 0, ())
            assert (second.version, second.default) == ("2.0", False)
            rig.catalog.set_default("m", "2.0")
            assert [one.default for one in look(rig)] == [False, True]
            assert Status(rig.catalog).registered() == {("m", "1.0"), ("m", "2.0")}

    run_virtual(main)


def test_what_waits_and_what_is_in_flight() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(batch_size=2)
            tasks = send(rig, b"0", b"1")
            await rig.worker.received()
            tasks += send(rig, b"2")
            await until(lambda: len(model.queue) == 1)
            model.queue._waiting[0].arrived -= 30
            (one,) = look(rig)
            assert (one.queued, one.in_flight) == (1, 2)
            assert 30 <= one.oldest_wait < 40
            await finish(rig, tasks)
            (one,) = look(rig)
            assert (one.queued, one.oldest_wait, one.in_flight) == (0, 0.0, 0)

    run_virtual(main)


def test_a_forming_batch_waits_too() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(batch_size=8, batch_policy="delay", max_batch_delay=1000)
            tasks = send(rig, b"0")
            await until(lambda: bool(model.queue._forming))
            model.queue._forming[0].arrived -= 5
            (one,) = look(rig)
            assert len(model.queue) == 0
            assert (one.queued, one.in_flight) == (1, 0)
            assert one.oldest_wait >= 5
            await asyncio.gather(*tasks)

    run_virtual(main)


def test_states_of_workers() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(workers=2)
            tasks = send(rig, b"0", b"1")
            await until(lambda: all(worker.current for worker in rig.backend.workers))
            rig.backend.load = never
            rig.supervisor.scale(model, 3, 3)
            await rig.backend.until(lambda: rig.backend.starting == 1)
            assert [worker.state for worker in look(rig)[0].workers] == [
                "ready",
                "ready",
                "starting",
            ]
            rig.supervisor.scale(model, 1, 1)
            await until(lambda: len(look(rig)[0].workers) == 2)  # the third had nothing to drain
            first, second = look(rig)[0].workers
            assert (first.state, second.state) == ("ready", "retired")
            assert (second.id, second.name) == ("9001", "W-9001-m_1.0")
            assert second.pids == (rig.backend.workers[1].pid,)
            assert look(rig)[0].in_flight == 2  # the one that is being ended still has its batch
            for worker in rig.backend.workers:
                worker.finish()
            await asyncio.gather(*tasks)
            await until(lambda: len(look(rig)[0].workers) == 1)
            rig.worker.die(1, None)
            rig.backend.workers[0].die(1, None)
            await until(lambda: look(rig)[0].workers[0].state == "waiting")
            assert look(rig)[0].workers[0].pids == ()

    run_virtual(main)
    assert STATES == ("starting", "ready", "waiting", "dead", "retired")


def test_a_worker_that_was_given_up_is_dead_and_still_there() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(max_retry_timeout=0)
            rig.worker.die(1, None)
            await until(lambda: model.slots[0].state is State.DEAD)
            await until(lambda: not rig.meter.version("m", "1.0").slots)
            assert [worker.state for worker in look(rig)[0].workers] == ["dead"]
            assert rig.meter.version("m", "1.0").restarts == []

    run_virtual(main)


def test_nothing_is_left_of_an_unregistered_version() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve()
            rig.catalog.remove(model)
            await rig.supervisor.stop(model, lambda: rig.catalog.missing("m", None))
            assert look(rig) == []
            assert rig.meter.version("m", "1.0").slots == []

    run_virtual(main)


def test_each_batch_is_observed_once() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=8)
            tasks = send(rig, b"0")
            await rig.worker.received()
            tasks += send(rig, *[b"%d" % n for n in range(1, 6)])
            await finish(rig, tasks)
            tasks = send(rig, b"6")
            await until(lambda: bool(rig.worker.current))
            rig.worker.finish(500, "broken")
            await asyncio.gather(*tasks, return_exceptions=True)
            batches = rig.meter.version("m", "1.0").batches
            assert [size for size, _ in batches] == [1, 5, 1]
            assert all(0 <= seconds < 60 for _, seconds in batches)

    run_virtual(main)


def test_a_batch_sent_ahead_is_timed_from_when_it_became_the_oldest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("ts_frontend.core.dispatch.time.monotonic", lambda: now)

    async def main() -> None:
        nonlocal now
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            for _ in range(6):  # each in no time: then it is sent two batches at once
                await finish(rig, send(rig, b"quick"))
            tasks = send(rig, b"1", b"2")
            await until(lambda: len(rig.worker.current) == 2)
            for took in (3.0, 4.0):
                now += took
                rig.worker.finish()
            await asyncio.gather(*tasks)
            assert rig.meter.version("m", "1.0").batches[5:] == [(1, 0.0), (1, 3.0), (1, 4.0)]

    run_virtual(main)


def test_a_batch_without_an_answer_is_not_observed() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            tasks = send(rig, b"0")
            await rig.worker.received()
            rig.worker.die(None, 11)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert rig.meter.version("m", "1.0").batches == []

    run_virtual(main)


async def _restarts(rig: Rig, count: int) -> None:
    await rig.backend.until(lambda: len(rig.backend.specs) == count)


@pytest.mark.parametrize(
    ("end", "reason"), [((3, None), "exit"), ((0, None), "exit"), ((None, 9), "signal")]
)
def test_restarts_by_how_the_worker_ended(end: tuple[int | None, int | None], reason: str) -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve()
            rig.worker.die(*end)
            await until(lambda: model.slots[0].state is State.WAITING)
            assert rig.meter.version("m", "1.0").restarts == []  # not yet
            await _restarts(rig, 2)
            assert rig.meter.version("m", "1.0").restarts == [reason]

    run_virtual(main)


def test_restarts_after_a_response_timeout() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=5)
            tasks = send(rig, b"0")
            await asyncio.gather(*tasks, return_exceptions=True)
            await _restarts(rig, 2)
            assert rig.meter.version("m", "1.0").restarts == ["timeout"]

    run_virtual(main)


async def _refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "no weights")


@pytest.mark.parametrize("load", [_refuse, never])
def test_restarts_after_a_load_that_failed_or_took_too_long(load: Any) -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = load
            model = rig.add(startup_timeout=5)
            rig.supervisor.scale(model, 1, 1)
            await _restarts(rig, 3)
            assert rig.meter.version("m", "1.0").restarts == ["load_failed"] * 2
            rig.backend.load = None
            await rig.backend.until(lambda: bool(rig.backend.workers))
            await until(lambda: model.slots[0].state is State.READY)
            starts = len(rig.backend.specs)
            rig.worker.die(1, None)
            await _restarts(rig, starts + 1)
            assert rig.meter.version("m", "1.0").restarts[-1] == "exit"

    run_virtual(main)
