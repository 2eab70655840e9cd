"""Mended on purpose: which requests share a batch, and what a worker leaves that goes."""

from __future__ import annotations

import asyncio

import pytest

from tests.compat.scenes import refuse, scaled_down_at_work
from tests.core_rig import Rig, Site, send, states, until
from tests.fakes import hold, make_request, run_virtual
from ts_frontend.core.job import Kind
from ts_frontend.core.slot import BACK_OFF, State
from ts_frontend.errors import Internal, ServiceUnavailable


async def test_explanations_and_predictions_share_no_batch(site: Site) -> None:
    """TorchServe batched them together, and its handlers did with all what the first one asked."""
    site.backend.behaviour = hold
    await site.register(site.model(), 1, batch_size=4)
    first = send(site)
    await site.worker.received()
    kinds: list[Kind] = ["predict", "explain", "predict"]
    waiting = [
        asyncio.create_task(site.inference.predict("m", None, make_request(), kind))
        for kind in kinds
    ]
    for count in range(2, 5):
        site.worker.finish()
        await site.worker.received(count)
    site.worker.finish()
    await asyncio.gather(first, *waiting)
    assert [len(batch.requests) for batch in site.worker.batches] == [1, 1, 1, 1]


def test_scaling_down_answers_the_current_batch() -> None:
    """In TorchServe it was a race: the batch went back to the queue, or failed "Worker died."."""
    assert scaled_down_at_work().body == b"run"


def test_rows_that_a_dead_worker_had_not_begun_go_to_the_next() -> None:
    """TorchServe failed whatever a worker held when it died. Here a quick worker is sent batches
    ahead, and only the one it was at fails."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            worker = rig.worker
            for _ in range(1000):  # until it has shown that it is quick
                tasks = [send(rig, b"%d" % number) for number in range(2)]
                await until(lambda: bool(worker.current))
                await asyncio.sleep(0.001)  # the turn in which the second one came is over
                if len(worker.current) == 2:
                    break
                for _ in tasks:
                    await until(lambda: bool(worker.current))
                    worker.finish()
                await asyncio.gather(*tasks)
            worker.die(1, None)
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await tasks[0]
            await asyncio.sleep(BACK_OFF[0])
            await until(lambda: rig.worker is not worker)
            await rig.worker.received()
            rig.worker.finish()
            assert (await tasks[1]).body == b"1"

    run_virtual(main)


def test_with_all_workers_given_up_requests_fail_at_once() -> None:
    """TorchServe let them wait until the queue was full: nobody would ever take them."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add(max_retry_timeout=1)
            rig.supervisor.scale(model, 1, 1)
            waiting = send(rig)
            with pytest.raises(ServiceUnavailable):
                await waiting
            assert states(model) == [State.DEAD]
            with pytest.raises(ServiceUnavailable):
                await send(rig)

    run_virtual(main)


def test_an_idle_worker_does_not_wait_for_a_full_batch() -> None:
    """TorchServe waited maxBatchDelay although a worker had nothing to do; batchPolicy: delay still
    does."""

    async def main() -> None:
        for policy, wait in (("eager", 0.0), ("delay", 0.2)):
            async with Rig() as rig:
                await rig.serve(batch_size=8, max_batch_delay=200, batch_policy=policy)
                before = asyncio.get_running_loop().time()
                await send(rig)
                assert asyncio.get_running_loop().time() - before == pytest.approx(wait)

    run_virtual(main)
