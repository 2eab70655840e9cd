"""A model with a latency target, on virtual time: who is answered, who is refused, what counts."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import pytest

from tests.core_rig import Rig, a_version, send, until
from tests.fakes import Behaviour, FakeWorker, VirtualLoop, a_job, hold, make_request
from ts_frontend.core.batching import JobQueue
from ts_frontend.core.describe import describe_versions
from ts_frontend.core.devices import Devices
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer, Kind
from ts_frontend.core.model import ModelVersion
from ts_frontend.errors import NotInTime, ServeError, ServiceUnavailable
from ts_worker.backend.base import ReplySink
from ts_worker.messages import Predict


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """On a loop whose time is virtual, and the clock of jobs with it."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        with mock.patch.object(time, "monotonic", loop.time):
            runner.run(main())


def costing(a: float, b: float) -> Behaviour:
    """Workers that take a + b * n seconds for a batch of n, one after the other."""
    free: dict[str, float] = {}

    def behaviour(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        loop = asyncio.get_running_loop()
        begin = max(loop.time(), free.get(worker.id, 0.0))
        free[worker.id] = begin + a + b * len(batch.requests)
        loop.call_at(free[worker.id], worker.answer, batch, reply)

    return behaviour


class Outcome:
    """What an open loop of requests to the model m came to; latencies are in seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.latencies: list[float] = []
        self.refused = 0

    async def ask(self, rig: Rig) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        try:
            await rig.inference.predict("m", None, make_request())
        except ServiceUnavailable:
            self.refused += 1
        else:
            self.latencies.append(loop.time() - due)

    def goodput(self, target: float) -> float:
        return sum(one <= target for one in self.latencies) / self.seconds

    @property
    def p99(self) -> float:
        return sorted(self.latencies)[int(0.99 * len(self.latencies))]


async def open_loop(rig: Rig, rate: float, seconds: float, seed: int = 1) -> Outcome:
    rng = random.Random(seed)
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    outcome = Outcome(seconds)
    async with asyncio.TaskGroup() as group:
        while loop.time() < end:
            await asyncio.sleep(rng.expovariate(rate))
            group.create_task(outcome.ask(rig))
    return outcome


def load(
    rate: float, *, a: float, b: float, workers: int = 1, seconds: float = 4.0, **settings: Any
) -> Outcome:
    """Offer so many requests a second to workers whose batches of 16 cost a + b * 16 seconds."""
    outcomes: list[Outcome] = []

    async def main() -> None:
        async with Rig(behaviour=costing(a, b)) as rig:
            await rig.serve(workers=workers, batch_size=16, **settings)
            await open_loop(rig, rate / 2, 0.5, seed=9)  # nobody plans with what was never seen
            outcomes.append(await open_loop(rig, rate, seconds))

    run(main)
    return outcomes[0]


TARGET = 0.05
ROOMY = {"a": 0.004, "b": 0.0005}  # 16 in 12 ms: 1333 a second
TIGHT = {"a": 0.020, "b": 0.0005}  # 16 in 28 ms: 571 a second, and two batches are too long


def test_below_capacity_nobody_is_refused_where_there_is_room() -> None:
    outcome = load(900, **ROOMY, max_latency=50)
    assert outcome.refused == 0
    assert outcome.p99 < TARGET


def test_at_three_times_the_capacity_goodput_stays_at_what_the_worker_can_do() -> None:
    outcome = load(4000, **ROOMY, max_latency=50)
    assert outcome.goodput(TARGET) > 0.95 * 1333
    assert outcome.p99 <= TARGET


@pytest.mark.parametrize(
    ("rate", "workers", "times"),
    [
        # Where most are in time anyway, no rule can gain much.
        *((170, 1, 0.97), (400, 1, 0.9), (340, 2, 0.97), (800, 2, 0.99), (1200, 3, 0.99)),
        *((1080, 2, 1.0), (1620, 3, 0.99), (540, 1, 1.4), (1700, 1, 5), (5000, 3, 2)),
    ],
)
def test_under_a_tight_target_it_is_no_worse_than_eager_and_the_best_fixed_wait(
    rate: int, workers: int, times: float
) -> None:
    def outcome(**settings: Any) -> Outcome:
        return load(rate, workers=workers, **TIGHT, **settings)

    others = [outcome()]
    others += [outcome(batch_policy="delay", max_batch_delay=ms) for ms in (2, 5, 10, 20)]
    ours = outcome(max_latency=50)
    assert ours.p99 <= TARGET
    assert ours.goodput(TARGET) >= times * max(one.goodput(TARGET) for one in others)


def test_requests_that_cannot_be_in_time_are_refused_as_they_come() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.03, 0.0)) as rig:
            model = await rig.serve(batch_size=4, max_latency=50)
            for _ in range(3):
                await send(rig)  # now it knows
            first = send(rig)
            await until(lambda: len(rig.worker.current) == 1)
            with pytest.raises(ServiceUnavailable, match=r"has no worker.*maxLatencyMs=50") as late:
                await send(rig)
            assert (late.value.status, late.value.reason) == (503, "latency_target")
            assert len(model.queue) == 0
            await first
            counts = rig.meter.version("m", "1.0")
            assert counts.refusals["arrival"].value == 1

    run(main)


def test_a_request_that_waits_for_a_worker_that_hangs_is_refused_when_its_time_is_up() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(max_latency=50)
            begun = send(rig)
            await rig.worker.received()
            waiting = [send(rig) for _ in range(3)]
            began = asyncio.get_running_loop().time()
            for one in waiting:
                with pytest.raises(ServiceUnavailable):
                    await one
            assert asyncio.get_running_loop().time() - began <= TARGET
            assert rig.meter.version("m", "1.0").refusals["waiting"].value == 3
            rig.worker.finish()
            await begun

    run(main)


def test_a_model_that_is_too_slow_still_answers_one_at_a_time() -> None:
    """An idle worker refuses nobody: else a model that was slow once would never be asked again."""

    async def main() -> None:
        behaviour = {"now": costing(0.2, 0.0)}
        async with Rig(behaviour=lambda *call: behaviour["now"](*call)) as rig:
            await rig.serve(batch_size=4, max_latency=50)
            for _ in range(3):
                assert (await send(rig)).status == 200
            behaviour["now"] = costing(0.001, 0.0)
            for _ in range(60):
                await send(rig)
            outcome = await open_loop(rig, 500, 1.0)
            assert outcome.refused == 0

    run(main)


def test_descriptions_are_never_refused_and_travel_alone() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.04, 0.0)) as rig:
            model = await rig.serve(batch_size=4, max_latency=50)
            for _ in range(3):
                await send(rig)
            first = send(rig)
            await until(lambda: len(rig.worker.current) == 1)
            describing = asyncio.create_task(describe_itself(model, make_request(b"describe")))
            await first
            assert (await describing).status == 200
            assert [len(batch.requests) for batch in rig.worker.batches] == [1] * 5

    run(main)


def test_kinds_are_not_mixed_and_all_are_answered() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.001, 0.0)) as rig:
            model = await rig.serve(batch_size=8, max_latency=100)
            kinds: list[Kind] = ["predict", "predict", "explain", "predict", "explain", "explain"]
            jobs = [a_job(kind) for kind in kinds]
            for job in jobs:
                assert model.queue.put(job)
            await asyncio.gather(*(job.future for job in jobs))
            by_id = {job.request.id: job.kind for job in jobs}
            batches = [[by_id[one.id] for one in sent.requests] for sent in rig.worker.batches]
            assert all(len(set(batch)) == 1 for batch in batches)
            assert [kind for batch in batches for kind in batch] == kinds

    run(main)


def test_a_tight_target_makes_batches_wait_and_says_why_they_left() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.03, 0.0005)) as rig:
            await rig.serve(batch_size=16, max_latency=50)
            await open_loop(rig, 300, 2.0)
            counts = rig.meter.version("m", "1.0")
            left = {why: count.value for why, count in counts.departures.items()}
            assert left["deadline"] > 0
            assert left["delay"] == 0
            assert sum(left.values()) == len(counts.batches)

    run(main)


@pytest.mark.parametrize(
    ("settings", "count", "expected"),
    [
        ({}, 4, {"full": 1}),
        ({}, 3, {"idle_worker": 1}),
        ({"batch_policy": "delay", "max_batch_delay": 5}, 3, {"delay": 1}),
        ({"batch_policy": "delay", "max_batch_delay": 5}, 4, {"full": 1}),
        ({"batch_size": 1}, 1, {"full": 1}),
        ({"max_latency": 50}, 4, {"full": 1}),
        ({"max_latency": 50}, 3, {"idle_worker": 1}),
    ],
)
def test_why_a_batch_left(settings: dict[str, Any], count: int, expected: dict[str, int]) -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.001, 0.0)) as rig:
            await rig.serve(**{"batch_size": 4, **settings})
            await asyncio.gather(*(send(rig) for _ in range(count)))
            counts = rig.meter.version("m", "1.0").departures
            assert {why: one.value for why, one in counts.items() if one.value} == expected

    run(main)


def test_quick_workers_are_sent_ahead_and_the_target_holds() -> None:
    """At a tenth of a millisecond a batch: several are with the worker at once."""

    async def main() -> None:
        depth = 0

        def quick(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
            nonlocal depth
            depth = max(depth, len(worker.current))
            behaviour(worker, batch, reply)

        behaviour = costing(0.0001, 0.0)
        async with Rig(behaviour=quick) as rig:
            await rig.serve(batch_size=2, max_latency=50, job_queue_size=10_000)
            outcome = await open_loop(rig, 15_000, 0.5)
            assert depth > 1
            assert outcome.refused == 0
            outcome = await open_loop(rig, 60_000, 0.5)
            assert outcome.p99 <= TARGET
            assert outcome.goodput(TARGET) > 0.9 * 20_000

    run(main)


def test_prefetched_batches_keep_to_the_target() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.004, 0.0005)) as rig:
            await rig.serve(batch_size=16, max_latency=50, prefetch=1, max_batch_delay=5)
            await open_loop(rig, 500, 0.5)
            outcome = await open_loop(rig, 4000, 3.0)
            assert outcome.p99 <= TARGET
            assert outcome.goodput(TARGET) > 0.9 * 1333

    run(main)


def test_a_worker_that_dies_costs_only_its_batch() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.004, 0.0005)) as rig:
            await rig.serve(workers=2, batch_size=4, max_latency=50)
            outcome = Outcome(1.0)
            first = asyncio.create_task(open_loop(rig, 500, 1.0))
            await asyncio.sleep(0.5)
            rig.backend.workers[0].die(None, 9)
            with pytest.raises(BaseExceptionGroup) as died:
                await first
            lost = [one for one in died.value.exceptions if isinstance(one, ServeError)]
            assert [one.status for one in lost] == [507] * len(lost)
            assert len(lost) <= 4
            outcome = await open_loop(rig, 200, 0.5)
            assert outcome.p99 <= TARGET

    run(main)


def test_what_waits_moves_to_the_queue_of_a_reloaded_model_and_is_watched_there() -> None:
    async def main() -> None:
        old = a_version(max_latency=50).queue
        new = a_version(max_latency=50).queue
        old.consumers = new.consumers = 1
        jobs = [a_job() for _ in range(3)]
        for job in jobs:
            assert old.put(job)
        old.bequeath(new)
        assert len(new) == 3
        jobs.append(a_job())
        assert old.put(jobs[-1])
        results = await asyncio.gather(*(job.future for job in jobs), return_exceptions=True)
        assert [type(one) for one in results] == [NotInTime] * 4
        assert asyncio.get_running_loop().time() <= TARGET

    run(main)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_who_is_refused_may_ask_again_at_once(prefetch: int) -> None:
    """Its callback runs in the middle of what refuses it: nothing may be lost or taken twice."""

    async def main() -> None:
        async with Rig(behaviour=costing(0.04, 0.0)) as rig:
            settings = {"batch_size": 4, "max_latency": 60, "prefetch": prefetch}
            model = await rig.serve(**settings)
            outcomes: Counter[str] = Counter()

            def ask(times: int) -> None:
                def told(outcome: Answer | ServeError) -> None:
                    outcomes["refused" if isinstance(outcome, ServeError) else "answered"] += 1
                    if times:
                        ask(times - 1)

                try:
                    rig.inference.submit("m", None, make_request(), told)
                except ServeError:
                    outcomes["not taken in"] += 1

            for _ in range(40):
                ask(3)
                await asyncio.sleep(0.003)
            await asyncio.wait_for(model.queue.join(), 10)
            assert outcomes["answered"] > 0
            assert outcomes["refused"] == rig.meter.version("m", "1.0").refusals["waiting"].value
            sent = [one.id for batch in rig.worker.batches for one in batch.requests]
            assert len(set(sent)) == len(sent) == outcomes["answered"]

    run(main)


def test_cancelled_requests_leave_no_trace() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(max_latency=50)
            begun = send(rig)
            await rig.worker.received()
            waiting = send(rig)
            await until(lambda: len(model.queue) == 1)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert len(model.queue) == 0
            rig.worker.finish()
            await begun
            await asyncio.wait_for(model.queue.join(), 1)

    run(main)


async def body_of(model: ModelVersion) -> dict[str, Any]:
    devices = Devices(0, {})
    (body,) = await describe_versions([model], devices, loaded_at_startup=False)
    return body


def test_describe_shows_the_plan_where_there_is_a_target() -> None:
    async def main() -> None:
        async with Rig(behaviour=costing(0.004, 0.0005)) as rig:
            model = await rig.serve(batch_size=16, max_latency=50)
            await open_loop(rig, 400, 1.0)
            body = await body_of(model)
            assert body["maxLatencyMs"] == 50
            plan = body["batching"]
            assert (plan["policy"], plan["plannedBatchSize"]) == ("latency_target", 16)
            assert plan["arrivalsPerSecond"] == pytest.approx(400, rel=0.5)
            assert plan["costMilliseconds"]["1"] == pytest.approx(4.5, rel=0.1)
            plain = await body_of(await rig.serve("n"))
            assert Counter(plain.keys() & {"maxLatencyMs", "batching"}) == Counter()

    run(main)


def test_without_a_target_the_queue_is_the_plain_one() -> None:
    async def main() -> None:
        assert type(a_version().queue) is JobQueue
        assert a_version().queue.target is None

    run(main)
