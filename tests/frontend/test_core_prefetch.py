"""Batches that busy workers are sent ahead, with workers in memory and on virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core_rig import Rig, Site, send, until
from tests.fakes import FakeWorker, hold, make_request, run_virtual
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer
from ts_frontend.core.slot import BACK_OFF
from ts_frontend.errors import Internal, ServeError
from ts_worker.backend.base import ReplySink
from ts_worker.messages import Predict


def sizes(worker: FakeWorker) -> list[int]:
    return [len(batch.requests) for batch in worker.batches]


async def warm(rig: Rig) -> None:
    """Make workers known as slow: with a first batch they might as well be quick ones."""
    for slot in next(iter(rig.catalog)).slots:
        assert slot._pump is not None
        slot._pump._pace = 1.0


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize(("prefetch", "sent"), [(0, 1), (1, 2), (3, 4)])
def test_a_busy_worker_gets_as_many_batches_ahead_as_the_yaml_says(
    prefetch: int, sent: int
) -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=prefetch)
            await warm(rig)
            tasks = [send(rig, b"%d" % n) for n in range(6)]
            await turns()
            assert (sizes(rig.worker), len(model.queue)) == ([1] * sent, 6 - sent)
            rig.worker.finish()  # one leaves, one comes
            await turns()
            assert len(rig.worker.current) == sent
            while rig.worker.current:
                rig.worker.finish()
                await turns()
            bodies = [(await task).body for task in tasks]
            assert bodies == [b"%d" % n for n in range(6)]

    run_virtual(main)


def test_an_idle_worker_comes_first_and_then_the_one_with_least_to_do() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(workers=2, prefetch=2)
            await warm(rig)
            first, second = rig.backend.workers
            tasks = []
            for expected in ((1, 0), (1, 1), (2, 1), (2, 2), (3, 2), (3, 3), (3, 3)):
                tasks.append(send(rig))
                await turns()
                counts = sorted((len(first.current), len(second.current)), reverse=True)
                assert tuple(counts) == expected
            second.finish()
            await turns()
            assert len(second.current) == 3
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run_virtual(main)


@pytest.mark.parametrize("policy", ["eager", "delay"])
def test_a_small_batch_goes_ahead_when_its_oldest_request_has_waited_long_enough(
    policy: str,
) -> None:
    """Full ones at once. Sooner would spread over many what could run together."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(prefetch=2, batch_size=4, max_batch_delay=10_000, batch_policy=policy)
            await warm(rig)
            loop = asyncio.get_running_loop()
            tasks = [send(rig)]
            await rig.worker.received()
            begun = loop.time()
            tasks += [send(rig) for _ in range(6)]
            await turns()
            assert sizes(rig.worker) == [1, 4]
            await asyncio.sleep(5)
            tasks.append(send(rig))
            await rig.worker.received(3)
            assert loop.time() - begun == pytest.approx(10, abs=0.1)
            assert sizes(rig.worker) == [1, 4, 3]
            for _ in range(3):
                rig.worker.finish()
            await asyncio.gather(*tasks)

    run_virtual(main)


def test_a_small_batch_that_is_due_goes_when_there_is_room() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(prefetch=1, batch_size=2, max_batch_delay=1000)
            await warm(rig)
            tasks = [send(rig) for _ in range(5)]
            await rig.worker.received(2)
            await asyncio.sleep(20)
            assert sizes(rig.worker) == [2, 2]
            rig.worker.finish()
            assert sizes(rig.worker) == [2, 2, 1]
            rig.worker.finish()
            rig.worker.finish()
            await asyncio.gather(*tasks)

    run_virtual(main)


def test_a_describe_job_travels_alone_and_waits_for_an_idle_worker() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=2, batch_size=2, max_batch_delay=1000)
            await warm(rig)
            tasks = [send(rig), send(rig)]
            await rig.worker.received()
            tasks.append(send(rig))
            await turns()
            describing = asyncio.create_task(describe_itself(model, make_request(b"{}")))
            await turns()
            tasks += [send(rig), send(rig)]
            await asyncio.sleep(20)
            assert sizes(rig.worker) == [2, 1]
            for _ in range(2):
                rig.worker.finish()
            await rig.worker.received(3)
            rig.worker.finish()
            await describing
            await rig.worker.received(4)
            assert sizes(rig.worker) == [2, 1, 1, 2]
            rig.worker.finish()
            await asyncio.gather(*tasks)

    run_virtual(main)


def test_a_worker_that_dies_loses_its_oldest_batch_only_and_the_rest_keeps_its_order() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=2)
            await warm(rig)
            dying = rig.worker
            tasks = [send(rig, b"%d" % n) for n in range(4)]
            await dying.received(3)
            dying.die(None, 9)
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await tasks[0]
            assert caught.value.status == 507
            assert len(model.queue) == 3
            await asyncio.sleep(BACK_OFF[0])
            await rig.backend.until(lambda: rig.worker is not dying)
            await until(lambda: len(rig.worker.batches) == 3)
            sent = [bytes(batch.requests[0].params[0].value) for batch in rig.worker.batches]
            assert sent == [b"1", b"2", b"3"]
            for _ in range(3):
                rig.worker.finish()
            await asyncio.gather(*tasks[1:])
            assert model.queue._unfinished == 0

    run_virtual(main)


def test_what_a_dead_worker_had_ahead_goes_to_busy_ones_with_room() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(workers=2, prefetch=1)
            await warm(rig)
            tasks = [send(rig, b"%d" % n) for n in range(3)]
            await turns()
            dying = next(one for one in rig.backend.workers if len(one.current) == 2)
            other = next(one for one in rig.backend.workers if one is not dying)
            dying.die(1, None)
            await until(lambda: len(other.current) == 2)
            other.finish()
            other.finish()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(one, Internal) for one in done].count(True) == 1

    run_virtual(main)


def test_the_response_timeout_counts_from_when_a_batch_became_the_oldest() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(prefetch=2, response_timeout=10)
            await warm(rig)
            tasks = [send(rig) for _ in range(3)]
            await rig.worker.received(3)
            slow = rig.worker
            for _ in range(2):
                await asyncio.sleep(8)
                slow.finish()
            await asyncio.sleep(8)
            assert not tasks[2].done()
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await tasks[2]
            assert asyncio.get_running_loop().time() == pytest.approx(26)
            assert [task.exception() for task in tasks[:2]] == [None, None]

    run_virtual(main)


def test_a_cancelled_request_is_told_to_the_worker_that_has_it_ahead() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=1)
            await warm(rig)
            first, ahead, waiting = (send(rig) for _ in range(3))
            await rig.worker.received(2)
            ahead.cancel()
            waiting.cancel()
            await asyncio.wait([ahead, waiting])
            assert rig.worker.cancelled == [rig.worker.batches[1].requests[0].id]
            assert len(model.queue) == 0
            rig.worker.finish()
            rig.worker.finish()
            await first
            await model.queue.join()

    run_virtual(main)


def test_scaling_down_waits_for_what_is_ahead_and_sends_no_more() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(workers=2, prefetch=1)
            await warm(rig)
            tasks = [send(rig) for _ in range(4)]
            await until(lambda: all(len(one.current) == 2 for one in rig.backend.workers))
            left, leaving = rig.backend.workers
            change = rig.supervisor.scale(model, 1, 1)
            await turns()
            tasks.append(send(rig))
            leaving.finish()
            await turns()
            assert (len(leaving.batches), len(model.queue)) == (2, 1)
            leaving.finish()
            await rig.supervisor.settle(change, None)
            assert rig.backend.alive == [left]
            while left.current:
                left.finish()
                await turns()
            await asyncio.gather(*tasks)

    run_virtual(main)


def test_unregistering_answers_what_is_ahead() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(prefetch=2)
            await warm(rig)
            tasks = [send(rig, b"%d" % n) for n in range(5)]
            await rig.worker.received(3)
            stopping = asyncio.create_task(
                rig.supervisor.stop(model, lambda: Internal("unregistered"))
            )
            await turns()
            while rig.worker.current:
                rig.worker.finish()
            await stopping
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert [one.body for one in done[:3] if isinstance(one, Answer)] == [b"0", b"1", b"2"]
            assert [str(one) for one in done[3:]] == ["unregistered"] * 2

    run_virtual(main)


def test_a_bug_of_the_backend_costs_its_worker_only(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        def broken_at_the_second(worker: FakeWorker, _: Predict, __: ReplySink) -> None:
            if len(worker.batches) == 2:
                raise RuntimeError("a bug")

        async with Rig(behaviour=broken_at_the_second) as rig:
            await rig.serve(prefetch=1)
            await warm(rig)
            first = send(rig)
            await rig.worker.received()
            second = send(rig)
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await first
            await rig.backend.until(lambda: len(rig.backend.workers) == 2)
            await rig.worker.received()
            rig.worker.finish()
            assert (await second).status == 200

    run_virtual(main)
    assert "dispatch failed" in caplog.text


def test_the_yaml_says_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def prefetch_of(number: int, text: str) -> tuple[int, bool]:
        async with Site(tmp_path / str(number)) as site:
            await site.register(site.model(yaml=text))
            (model,) = site.catalog
            return model.settings.prefetch, site.backend.specs[0].prefetch

    async def main() -> None:
        assert await prefetch_of(0, "prefetch: 2\n") == (2, True)
        assert await prefetch_of(1, "batchSize: 2\n") == (0, False)
        assert await prefetch_of(2, "prefetch: -1\n") == (0, False)

    asyncio.run(main())
    assert "prefetch must be 0 or more, not -1" in caplog.text


_arrivals = st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=_arrivals,
    deaths=st.lists(st.floats(0, 3), max_size=3),
    workers=st.integers(1, 3),
    options=st.fixed_dictionaries(
        {
            "prefetch": st.integers(1, 3),
            "batch_size": st.integers(1, 4),
            "max_batch_delay": st.sampled_from([0, 100, 1000]),
            "batch_policy": st.sampled_from(["eager", "delay"]),
        }
    ),
)
def test_nothing_is_lost_or_run_twice(
    arrivals: list[tuple[float, bool]],
    deaths: list[float],
    workers: int,
    options: dict[str, Any],
) -> None:
    """Whoever dies and whoever leaves: each request gets one answer, and a batch that a worker
    answered was never sent to another one before it."""

    async def main() -> None:
        answered: Counter[bytes] = Counter()

        busy: set[FakeWorker] = set()

        def in_turn(worker: FakeWorker, _: Predict, __: ReplySink) -> None:
            if worker not in busy:
                busy.add(worker)
                loop.call_later(0.2, finish, worker)

        def finish(worker: FakeWorker) -> None:
            if worker.exit is None:
                answered.update(one.id for one in worker.current[0][0].requests)
                worker.finish()
            busy.discard(worker)
            if worker.exit is None and worker.current:
                in_turn(worker, *worker.current[0])

        def die() -> None:
            if rig.backend.alive:
                rig.backend.alive[0].die(1, None)

        async def one(moment: float, leaves: bool) -> bool:
            await asyncio.sleep(moment)
            task = send(rig)
            if leaves:
                await asyncio.sleep(0.3)
                task.cancel()
            try:
                await task
            except (ServeError, asyncio.CancelledError):
                return False
            return True

        loop = asyncio.get_running_loop()
        async with Rig(behaviour=in_turn) as rig:
            model = await rig.serve(workers=workers, response_timeout=50, **options)
            for moment in deaths:
                loop.call_at(moment, die)
            good = await asyncio.gather(*(one(*arrival) for arrival in arrivals))
            await model.queue.join()
            assert max(answered.values(), default=1) == 1
            stayed = [ok for ok, (_, leaves) in zip(good, arrivals, strict=True) if not leaves]
            lost = stayed.count(False)
            assert lost <= len(deaths) * options["batch_size"]
            await asyncio.sleep(100)
            assert len(model.queue) == 0
            assert all(slot.in_flight == 0 for slot in model.slots)

    run_virtual(main)
