"""Kept on purpose: how batches fill, and how workers are started, numbered and named."""

from __future__ import annotations

import asyncio

from tests.compat.scenes import refuse
from tests.core_rig import Rig, Site, never, states
from tests.fakes import make_request, run_virtual
from ts_frontend.core.batch_policy import Delay
from ts_frontend.core.batching import JobQueue
from ts_frontend.core.job import Job
from ts_frontend.core.slot import BACK_OFF, State
from ts_worker.backend.base import Ranks


def test_a_delay_of_zero_batches_two_at_most() -> None:
    """TorchServe looked at the clock after each job: with a delay of 0 ms it took two at most."""

    async def main() -> None:
        queue = JobQueue(Delay(0.0), capacity=100, batch_size=8)
        queue.consumers = 1
        for _ in range(5):
            assert queue.put(Job(make_request(), lambda outcome: None))
        assert [len(await queue.take()) for _ in range(3)] == [2, 2, 1]

    run_virtual(main)


async def test_a_yaml_delay_of_zero_counts_as_unset(site: Site) -> None:
    """TorchServe took maxBatchDelay: 0 of a model-config.yaml for the default, 100 ms."""
    await site.register(site.model(yaml="maxBatchDelay: 0\n"), 0)
    assert site.catalog.find("m").settings.max_batch_delay == 100


def test_workers_are_restarted_by_the_back_off_table() -> None:
    """TorchServe waited 1, 1, 2, 3, 5 ... 1597 s; it looks at maxRetryTimeoutInSec when an attempt
    fails, so that the last one comes after the 300 s."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add()
            rig.supervisor.scale(model, 1, 1)
            await asyncio.sleep(10_000)
            starts = [0, 1, 2, 4, 7, 12, 20, 33, 54, 88, 143, 232, 376]
            assert rig.backend.start_times == starts
            assert states(model) == [State.DEAD]  # and still listed

    run_virtual(main)
    assert (BACK_OFF[:6], BACK_OFF[-1]) == ((1, 1, 2, 3, 5, 8), 1597)


async def test_a_pair_of_workers_in_the_yaml_beats_the_register_call(site: Site) -> None:
    """In TorchServe minWorkers and maxWorkers of a yaml won over initial_workers."""
    await site.register(site.model(yaml="minWorkers: 2\nmaxWorkers: 3\n"), 1)
    model = site.catalog.find("m")
    assert (len(model.slots), model.max_workers) == (2, 3)


async def test_a_worker_is_ready_or_unloading_never_loading(site: Site) -> None:
    """TorchServe described a worker that loads its model as UNLOADING, and KServe's ready was true
    as soon as there was one."""
    site.backend.load = never
    await site.register(site.model(), 1, synchronous=False)
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["status"] == "UNLOADING"
    assert site.management.ready("m")


async def test_parallel_workers_are_numbered_by_their_ports(site: Site) -> None:
    for name, kind in (("a", "tp"), ("b", "custom"), ("c", "pp")):
        await site.register(site.model(name, yaml=f"parallelType: {kind}\nparallelLevel: 4\n"))
    await site.register(site.model("plain"))
    assert [spec.id for spec in site.backend.specs] == ["29500", "29504", "29508", "9000"]
    assert site.backend.specs[1].ranks is None


async def test_torchrun_goes_before_the_level(site: Site) -> None:
    section = "torchrun: {nproc-per-node: 2}\nparallelLevel: 4\n"
    await site.register(site.model("a", yaml=f"parallelType: tp\n{section}"))
    await site.register(site.model("b", yaml=section))
    assert [spec.ranks for spec in site.backend.specs] == [Ranks(2, 29500, True), None]


async def test_a_pipeline_is_asked_at_its_first_rank(site: Site) -> None:
    for kind in ("pp", "tp", "pptp"):
        yaml = f"parallelType: {kind}\nparallelLevel: 2\n"
        await site.register(site.model(kind, yaml=yaml))
    asked = [spec.ranks.all_predict for spec in site.backend.specs if spec.ranks]
    assert asked == [False, True, True]
