"""Workers come and go: scaling, threads, stopping, draining."""

from __future__ import annotations

import asyncio

import pytest

from tests.core_rig import Rig, never, send, states, until
from tests.fakes import LoadFailed, hold, run_virtual
from ts_frontend.config import Config
from ts_frontend.core.slot import State
from ts_frontend.errors import Internal, ModelNotFound, RequestTimeout, ServiceUnavailable
from ts_worker.backend.base import WorkerSpec


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ValueError: no weights", "Traceback\n  line\nValueError: no weights")


def test_scaling_up_down_and_in_between() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(workers=1)
            assert await rig.supervisor.settle(rig.supervisor.scale(model, 3, 5), None)
            assert [slot.id for slot in model.slots] == ["9000", "9001", "9002"]
            assert not rig.supervisor.scale(model, 1, 3).started
            assert await rig.supervisor.settle(rig.supervisor.scale(model, 1, 2), None)
            assert [worker.id for worker in rig.backend.alive] == ["9000", "9001"]
            assert (model.min_workers, model.max_workers) == (1, 2)
            await rig.supervisor.settle(rig.supervisor.scale(model, 3, 3), None)
            assert [slot.id for slot in model.slots] == ["9000", "9001", "9003"]

    run_virtual(main)


def test_ids_count_on_over_all_models() -> None:
    async def main() -> None:
        async with Rig(Config(initial_worker_port=7000)) as rig:
            await rig.serve("a")
            await rig.serve("b", workers=2)
            assert [spec.id for spec in rig.backend.specs] == ["7000", "7001", "7002"]

    run_virtual(main)


def test_scaling_down_lets_the_current_batch_be_answered() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(workers=1)
            running, waiting = send(rig), send(rig)
            await rig.worker.received()
            change = rig.supervisor.scale(model, 0, 0)
            # Nobody will serve who waits: the same text as for new requests.
            with pytest.raises(ServiceUnavailable):
                await waiting
            with pytest.raises(ServiceUnavailable):
                await send(rig)
            await asyncio.sleep(50)
            assert rig.backend.alive
            rig.worker.finish()
            assert (await running).status == 200
            assert await rig.supervisor.settle(change, None)
            assert not rig.backend.alive

    run_virtual(main)


def test_draining_a_worker_has_a_limit() -> None:
    async def main() -> None:
        async with Rig(Config(unregister_model_timeout=40), behaviour=hold) as rig:
            model = await rig.serve(response_timeout=1000)
            running = send(rig)
            await rig.worker.received()
            change = rig.supervisor.scale(model, 0, 0)
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await running
            await rig.supervisor.settle(change, None)
            assert asyncio.get_running_loop().time() == 40

    run_virtual(main)


def test_scaling_down_cancels_a_start_and_a_pause() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = never
            model = rig.add()
            up = rig.supervisor.scale(model, 1, 1)
            await rig.backend.until(lambda: rig.backend.starting == 1)
            down = rig.supervisor.scale(model, 0, 0)
            await rig.supervisor.settle(down, None)
            assert rig.backend.killed == 1
            assert not await rig.supervisor.settle(up, None)
            rig.backend.load = refuse
            up = rig.supervisor.scale(model, 1, 1)
            with pytest.raises(Internal):
                await rig.supervisor.settle(up, None)
            await rig.supervisor.settle(rig.supervisor.scale(model, 0, 0), None)
            starts = len(rig.backend.specs)
            await asyncio.sleep(1000)
            assert len(rig.backend.specs) == starts

    run_virtual(main)


def test_other_workers_take_over_the_queue_of_one_that_is_scaled_away() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(
                workers=2, batch_policy="delay", batch_size=4, max_batch_delay=500
            )
            task = send(rig)
            await asyncio.sleep(0.1)  # it is in the forming batch of one of the two
            change = rig.supervisor.scale(model, 1, 1)
            assert (await task).status == 200
            await rig.supervisor.settle(change, None)

    run_virtual(main)


def test_threads_are_shared_out_and_sent_again_on_scaling() -> None:
    async def main() -> None:
        async with Rig(cores=8) as rig:
            model = await rig.serve(workers=1)
            assert rig.backend.specs[0].threads == 8
            await rig.supervisor.settle(rig.supervisor.scale(model, 3, 3), None)
            assert [worker.threads for worker in rig.backend.alive] == [2, 2, 2]
            await rig.supervisor.settle(rig.supervisor.scale(model, 20, 20), None)
            assert {worker.threads for worker in rig.backend.alive} == {1}
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 2), None)
            assert [worker.threads for worker in rig.backend.alive] == [4, 4]

    run_virtual(main)


def test_a_worker_that_loads_while_the_share_changes_gets_the_new_one() -> None:
    async def main() -> None:
        gate = asyncio.Event()

        async def load(spec: WorkerSpec) -> None:
            await gate.wait()

        async with Rig(cores=8) as rig:
            rig.backend.load = load
            model = rig.add()
            first = rig.supervisor.scale(model, 1, 1)
            await rig.backend.until(lambda: rig.backend.starting == 1)
            second = rig.supervisor.scale(model, 4, 4)
            gate.set()
            await rig.supervisor.settle(first, None)
            await rig.supervisor.settle(second, None)
            assert rig.backend.specs[0].threads == 8
            assert [worker.threads for worker in rig.backend.alive] == [2] * 4

    run_virtual(main)


def test_threads_chosen_by_the_user_are_left_alone() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = rig.add(env={"OMP_NUM_THREADS": "3"})
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), None)
            await rig.supervisor.settle(rig.supervisor.scale(model, 4, 4), None)
            assert {worker.threads for worker in rig.backend.alive} == {0}

    run_virtual(main)


def test_stop_answers_who_waits_with_the_reason_given() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            running, waiting = send(rig), send(rig)
            await rig.worker.received()
            stopping = asyncio.create_task(
                rig.supervisor.stop(model, lambda: ModelNotFound("Model not found: m"))
            )
            with pytest.raises(ModelNotFound):
                await waiting
            rig.worker.finish()
            assert (await running).status == 200
            await stopping
            assert model.slots == []

    run_virtual(main)


def test_a_worker_that_will_not_end_is_408() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve()
            gate = asyncio.Event()
            original = rig.worker.stop

            async def stop(grace: float) -> None:
                await gate.wait()
                await original(grace)

            rig.worker.stop = stop  # type: ignore[method-assign]
            with pytest.raises(RequestTimeout, match=r"^Timed out while cleaning resources: m$"):
                await rig.supervisor.stop(model, lambda: ModelNotFound("gone"))
            gate.set()

    run_virtual(main)


def test_drain_waits_for_queued_and_running_requests() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve()
            tasks = [send(rig), send(rig)]
            await rig.worker.received()
            draining = asyncio.create_task(rig.supervisor.drain(60))
            for _ in range(2):
                await until(lambda: bool(rig.worker.current))
                assert not draining.done()
                rig.worker.finish()
            assert await draining
            assert [(await task).status for task in tasks] == [200, 200]

    run_virtual(main)


def test_drain_gives_up_at_its_limit_and_close_ends_everything() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=1000)
            running, waiting = send(rig), send(rig)
            await rig.worker.received()
            assert not await rig.supervisor.drain(5)
            await rig.supervisor.close()
            assert asyncio.get_running_loop().time() == 5
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await running
            with pytest.raises(ServiceUnavailable):
                await waiting
            assert rig.backend.alive == []

    run_virtual(main)


def test_once_all_workers_are_given_up_nobody_waits_for_them() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add(max_retry_timeout=10)
            rig.supervisor.scale(model, 2, 2)
            waiting = send(rig)
            with pytest.raises(ServiceUnavailable):
                await waiting
            assert asyncio.get_running_loop().time() == 12  # the last attempt
            assert states(model) == [State.DEAD] * 2
            rig.supervisor.scale(model, 1, 2)
            with pytest.raises(ServiceUnavailable):
                await send(rig)
            rig.backend.load = None
            await rig.supervisor.settle(rig.supervisor.scale(model, 3, 3), None)
            assert (await send(rig)).status == 200

    run_virtual(main)


def test_close_does_not_wait_for_batches_that_are_draining() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve()
            running = send(rig)
            await rig.worker.received()
            rig.supervisor.scale(model, 0, 0)
            await asyncio.sleep(1)
            await rig.supervisor.close()
            assert asyncio.get_running_loop().time() == 1
            with pytest.raises(Internal):
                await running

    run_virtual(main)
