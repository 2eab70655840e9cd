"""Queues and batches 8.1, requests in flight when a worker goes 8.3, client timeouts 8.4: the core
with workers in memory, in virtual time.

The rest of section 8 has its rows elsewhere: workers (8.2) in test_lifecycle, archives (8.9) in
test_archives, tokens (8.13) in test_tokens. Job tickets, continuous and sequence batching and
asyncCommunication (8.5-8.8) come with later work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.compat.scenes import scaled_down_at_work
from tests.core_rig import Rig, Site, never, until
from tests.fakes import FakeWorker, LoadFailed, hold, make_request, run_virtual
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer
from ts_frontend.core.model import ModelVersion
from ts_frontend.errors import (
    Internal,
    ModelNotFound,
    RequestTimeout,
    ServiceUnavailable,
)
from ts_worker.backend.base import WorkerSpec
from ts_worker.messages import Reply, Response

DELAY = {"batch_policy": "delay"}


def send(rig: Rig, body: bytes = b"x", version: str | None = None) -> asyncio.Task[Answer]:
    return asyncio.create_task(rig.inference.predict("m", version, make_request(body)))


async def queued(rig: Rig, model: ModelVersion, count: int) -> list[asyncio.Task[Answer]]:
    """Requests that wait, numbered in their bodies."""
    tasks = []
    for number in range(count):
        tasks.append(send(rig, b"%d" % number))
        await until(lambda: len(model.queue) == len(tasks))
    return tasks


async def busy(rig: Rig, **settings: Any) -> ModelVersion:
    """A model whose only worker holds a first batch."""
    model = await rig.serve(**settings)
    send(rig, b"first")
    await rig.worker.received()
    return model


def bodies(worker: FakeWorker) -> list[list[bytes]]:
    """What each batch that a worker was sent held."""
    return [[bytes(r.params[0].value) for r in batch.requests] for batch in worker.batches]


def now() -> float:
    return asyncio.get_running_loop().time()


async def gone(*tasks: asyncio.Task[Any]) -> None:
    """End what still waits."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "no", "")


# 8.1: queues


async def test_each_version_has_a_queue_of_its_own() -> None:
    """8.1 one queue per version, first in first out."""
    async with Rig(behaviour=hold) as rig:
        first = await busy(rig, version="1.0")
        second = await rig.serve(version="2.0")
        waiting = await queued(rig, first, 3)
        other = send(rig, b"other", "2.0")
        await rig.worker.received()
        assert (len(first.queue), len(second.queue)) == (3, 0)
        worker = rig.backend.workers[0]
        for _ in range(4):
            worker.finish()
            await until(lambda: bool(worker.current) or waiting[-1].done())
        assert bodies(worker) == [[b"first"], [b"0"], [b"1"], [b"2"]]
        await gone(other)


@pytest.mark.parametrize(
    ("settings", "capacity"),
    [
        pytest.param({}, 100, id="8.1 capacity 100 by default"),
        pytest.param({"job_queue_size": 2}, 2, id="8.1 jobQueueSize"),
    ],
)
async def test_capacity(settings: dict[str, int], capacity: int) -> None:
    """Waiting jobs only: what a worker has does not count. Full is 503 at once."""
    async with Rig(behaviour=hold) as rig:
        model = await busy(rig, **settings)
        waiting = await queued(rig, model, capacity)
        with pytest.raises(ServiceUnavailable, match="has no worker to serve inference request"):
            await send(rig)
        rig.worker.finish()
        await until(lambda: len(model.queue) == capacity - 1)
        await gone(*waiting)


async def test_no_worker_object() -> None:
    """8.1 no worker object registered: 503."""
    async with Rig() as rig:
        rig.add()
        with pytest.raises(ServiceUnavailable):
            await send(rig)


@pytest.mark.parametrize(
    "load", [pytest.param(never, id="8.1 starting"), pytest.param(refuse, id="8.1 dead")]
)
async def test_workers_that_are_not_there_yet(load: Callable[..., Any]) -> None:
    """Workers that exist but are dead or starting: the request is queued and waits."""
    async with Rig() as rig:
        rig.backend.load = load
        model = rig.add()
        rig.supervisor.scale(model, 1, 1)
        await rig.backend.until(lambda: len(rig.backend.specs) == 1)
        (waiting,) = await queued(rig, model, 1)
        await gone(waiting)


def test_workers_that_were_given_up() -> None:
    """8.2 the worker stays dead: requests queued until the queue was full. Mended: 503 at once."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            rig.supervisor.scale(rig.add(max_retry_timeout=0), 1, 1)
            await asyncio.sleep(1)
            with pytest.raises(ServiceUnavailable):
                await send(rig)

    run_virtual(main)


# 8.1: batches, as batchPolicy: delay keeps them


@pytest.mark.parametrize(
    ("arrivals", "sizes", "sent"),
    [
        pytest.param([0, 10, 99], [3], [100], id="8.1 waits for the remaining delay"),
        pytest.param([0, 101], [1, 1], [100, 201], id="8.1 nothing: stop"),
        pytest.param([0, 10, 20, 30], [4], [30], id="8.1 batchSize ends it"),
        pytest.param([5], [1], [105], id="8.1 counted from when the first was taken"),
    ],
)
def test_batches_fill(arrivals: list[int], sizes: list[int], sent: list[int]) -> None:
    """maxBatchDelay 100 ms, batchSize 4, one idle worker: when batches leave, in ms."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=4, max_batch_delay=100, **DELAY)
            start, tasks, times = now(), [], []
            worker = rig.worker
            original = worker.predict

            def predict(batch: Any, reply: Any) -> None:
                times.append(round((now() - start) * 1000))
                original(batch, reply)
                asyncio.get_running_loop().call_soon(worker.finish)

            worker.predict = predict  # type: ignore[method-assign]
            for arrival in arrivals:
                await asyncio.sleep(start + arrival / 1000 - now())
                tasks.append(send(rig))
            await asyncio.gather(*tasks)
            assert [len(batch.requests) for batch in worker.batches] == sizes
            assert times == sent

    run_virtual(main)


def test_queued_jobs_are_taken_instantly() -> None:
    """8.1 under load batches fill without delay."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await busy(rig, batch_size=4, max_batch_delay=1000, **DELAY)
            waiting = await queued(rig, model, 9)
            before = now()
            for number in range(2):
                rig.worker.finish()
                await rig.worker.received(number + 2)
            assert now() == before
            assert [len(batch.requests) for batch in rig.worker.batches] == [1, 4, 4]
            await gone(*waiting)

    run_virtual(main)


@pytest.mark.parametrize("delay", [0, -1])
def test_no_delay(delay: int) -> None:
    """8.1 with maxBatchDelay <= 0 at most 2 jobs are batched even if more are queued."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await busy(rig, batch_size=8, max_batch_delay=delay, **DELAY)
            waiting = await queued(rig, model, 5)
            for number in range(3):
                rig.worker.finish()
                await rig.worker.received(number + 2)
            assert [len(batch.requests) for batch in rig.worker.batches] == [1, 2, 2, 1]
            await gone(*waiting)

    run_virtual(main)


def test_one_worker_fills_at_a_time() -> None:
    """8.1 a worker takes a batch while holding a per-version lock."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(workers=3, batch_size=2, max_batch_delay=100, **DELAY)
            tasks = [send(rig) for _ in range(3)]
            await asyncio.sleep(0.05)
            sizes = sorted(len(bodies(worker)) for worker in rig.backend.workers)
            assert sizes == [0, 0, 1]  # one batch of two is away, the third request waits
            assert len(model.queue) == 0
            await asyncio.sleep(0.06)
            assert sorted(len(bodies(worker)) for worker in rig.backend.workers) == [0, 1, 1]
            await gone(*tasks)

    run_virtual(main)


@pytest.mark.parametrize("policy", ["eager", "delay"])
def test_describe_travels_alone(policy: str) -> None:
    """8.1 DESCRIBE: batch of one; one that is met while filling ends the batch and stays first."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await busy(rig, batch_size=8, max_batch_delay=100, batch_policy=policy)
            tasks: list[asyncio.Task[Any]] = await queued(rig, model, 2)
            tasks.append(asyncio.create_task(describe_itself(model, make_request(b"describe"))))
            await until(lambda: len(model.queue) == 3)
            tasks.append(send(rig, b"last"))
            await until(lambda: len(model.queue) == 4)
            for number in range(3):
                rig.worker.finish()
                await rig.worker.received(number + 2)
            assert bodies(rig.worker) == [[b"first"], [b"0", b"1"], [b"describe"], [b"last"]]
            await gone(*tasks)

    run_virtual(main)


def test_an_idle_worker_takes_what_waits() -> None:
    """8.1 step 3 made an idle worker wait for maxBatchDelay. Mended: batchPolicy eager does not,
    and what arrives together still travels together."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(batch_size=8, max_batch_delay=10_000)
            tasks = [send(rig) for _ in range(5)]
            await rig.worker.received()
            assert (now(), len(rig.worker.batches[0].requests)) == (0, 5)
            await gone(*tasks)

    run_virtual(main)


async def test_one_batch_in_flight_per_worker() -> None:
    """8.1: of a worker that is not known to be quick; such a one is sent its next ahead."""
    async with Rig(behaviour=hold) as rig:
        model = await busy(rig)
        waiting = await queued(rig, model, 3)
        assert len(rig.worker.current) == 1
        await gone(*waiting)


async def test_answers_go_by_request_id() -> None:
    """8.1 response order within a batch is by request id."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(batch_size=2)
        tasks = [send(rig, b"a"), send(rig, b"b")]
        await rig.worker.received()
        batch, reply = rig.worker.current.popleft()
        rows = [Response(r.id, 200, "", b"", r.params[0].value) for r in batch.requests]
        reply(Reply(batch.batch_id, 200, "", tuple(reversed(rows))))
        assert [bytes((await task).body) for task in tasks] == [b"a", b"b"]


# 8.3: requests in flight when a worker goes away


@pytest.mark.parametrize(
    ("code", "signal", "status"),
    [
        pytest.param(1, None, 500, id="8.3 crash"),
        pytest.param(0, None, 500, id="8.3 socket closed"),
        pytest.param(None, 11, 500, id="8.3 a signal"),
        pytest.param(137, None, 507, id="8.3 exit value 137"),
        pytest.param(None, 9, 507, id="8.3 killed"),
    ],
)
async def test_a_worker_that_dies(code: int | None, signal: int | None, status: int) -> None:
    """Each request of its batch fails, and none is tried again on another worker."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(workers=2, batch_size=2)
        tasks = {body: send(rig, body) for body in (b"a", b"b", b"c", b"d")}
        first, second = rig.backend.workers
        await until(lambda: bool(first.current and second.current))
        lost = [bytes(request.params[0].value) for request in first.current[0][0].requests]
        assert len(lost) == 2
        first.die(code, signal)
        for body in lost:
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await tasks.pop(body)
            assert caught.value.status == status
        second.finish()
        assert [(await task).body for task in tasks.values()] == list(tasks)
        assert sum(len(worker.batches) for worker in rig.backend.workers) == 2


def test_a_response_timeout_is_a_death() -> None:
    """8.2, 8.3 timeout: 500, and the process is ended."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=3)
            worker = rig.worker
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                await send(rig)
            assert now() == pytest.approx(3)
            await until(lambda: worker.exit is not None)

    run_virtual(main)


def test_each_message_of_a_stream_has_its_time() -> None:
    """4.6 each intermediate response must arrive within responseTimeout; then it breaks off."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(response_timeout=3)
            running = send(rig)
            await rig.worker.received()
            for _ in range(3):
                await asyncio.sleep(2)
                rig.worker.chunk(b"part")
            answer = await running
            assert answer.chunks is not None
            with pytest.raises(Internal, match=r"^Worker died\.$"):
                async for _ in answer.chunks:
                    pass
            assert now() == pytest.approx(9)

    run_virtual(main)


def test_scaling_down() -> None:
    """8.3 scale-down: the batch went back or failed, by chance. Mended: it is answered."""
    assert scaled_down_at_work().body == b"run"


async def test_unregistering(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """8.3 queued requests were never answered. Mended: 404, which is what later ones get."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        site.backend.behaviour = hold
        await site.register(site.model())
        running, waiting = send(site, b"run"), send(site)
        await site.worker.received()
        leaving = asyncio.create_task(site.management.unregister("m", None))
        with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
            await waiting
        site.worker.finish()
        assert (await running).body == b"run"
        await leaving
        for version in (None, "1.0"):
            with pytest.raises(ModelNotFound):
                await send(site, version=version)


# 8.4: client timeouts


@pytest.mark.parametrize(
    ("waits", "status"),
    [
        pytest.param(True, 408, id="8.4 deadline in the queue, mended"),
        pytest.param(False, 504, id="8.4 deadline in a worker, mended"),
    ],
)
def test_the_deadline(waits: bool, status: int) -> None:
    """Arrival + clientTimeoutInMills. TorchServe then sent nothing, ever."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=250)
            first = send(rig)
            await rig.worker.received()
            await asyncio.sleep(0.1)
            second = send(rig)
            with pytest.raises(RequestTimeout, match="clientTimeoutInMills=250") as caught:
                await (second if waits else first)
            assert caught.value.status == status
            assert now() == pytest.approx(0.35 if waits else 0.25)
            await asyncio.gather(first, second, return_exceptions=True)

    run_virtual(main)


def test_no_deadline() -> None:
    """8.4 clientTimeoutInMills 0: never."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=0, response_timeout=10_000)
            running = send(rig)
            await rig.worker.received()
            await asyncio.sleep(5000)
            rig.worker.finish()
            assert (await running).status == 200

    run_virtual(main)


@pytest.mark.parametrize("waits", [True, False])
async def test_a_client_that_leaves(waits: bool) -> None:
    """8.4 was not noticed. Mended: its request leaves the queue, or its worker is told."""
    async with Rig(behaviour=hold) as rig:
        model = await rig.serve()
        running = send(rig)
        await rig.worker.received()
        leaves = (await queued(rig, model, 1))[0] if waits else running
        await gone(leaves)
        assert len(model.queue) == 0
        batch = rig.worker.batches[0]
        assert rig.worker.cancelled == ([] if waits else [batch.requests[0].id])
        await gone(running)
