"""The queue of a version and both batch policies, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import AwaitedJob, a_job, run_virtual
from ts_frontend.core.batch_policy import Delay, Eager, Policy
from ts_frontend.core.batching import JobQueue
from ts_frontend.core.job import Job, Kind
from ts_frontend.errors import ModelNotFound, RequestTimeout
from ts_worker.messages import ReplyChunk, Response


def a_queue(policy: Policy, batch_size: int = 4, **options: object) -> JobQueue:
    queue = JobQueue(policy, capacity=100, batch_size=batch_size, **options)  # type: ignore[arg-type]
    queue.consumers = 1
    return queue


def put(queue: JobQueue, count: int = 1) -> list[AwaitedJob]:
    jobs = [a_job() for _ in range(count)]
    assert all(queue.put(job) for job in jobs)
    return jobs


def later(delay: float, call: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(delay, call)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_eager_takes_what_waits_without_waiting_for_more() -> None:
    async def main() -> None:
        queue = a_queue(Eager())
        jobs = put(queue, 3)
        assert await queue.take() == jobs
        assert now() == 0.0

    run_virtual(main)


def test_eager_lets_requests_of_the_same_turn_travel_together() -> None:
    async def main() -> None:
        queue = a_queue(Eager())
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        first = put(queue)
        await asyncio.sleep(0)  # the taker has been woken, and yields
        second = put(queue)
        assert await taking == first + second

    run_virtual(main)


def test_a_batch_is_never_longer_than_its_size() -> None:
    async def main() -> None:
        for policy in (Eager(), Delay(0.1)):
            queue = a_queue(policy, batch_size=2)
            jobs = put(queue, 5)
            sizes = [len(await queue.take()) for _ in range(3)]
            assert sizes == [2, 2, 1]
            assert not [job for job in jobs if queue.remove(job)]

    run_virtual(main)


def test_delay_waits_from_the_first_job_on() -> None:
    async def main() -> None:
        queue = a_queue(Delay(0.1), batch_size=8)
        later(1.0, lambda: put(queue))
        later(1.05, lambda: put(queue))
        later(1.099, lambda: put(queue))
        later(1.2, lambda: put(queue))
        assert len(await queue.take()) == 3
        assert now() == pytest.approx(1.1)

    run_virtual(main)


def test_delay_ends_the_moment_the_batch_is_full() -> None:
    async def main() -> None:
        queue = a_queue(Delay(5.0), batch_size=3)
        for moment in (0.0, 0.5, 1.0):
            later(moment, lambda: put(queue))
        assert len(await queue.take()) == 3
        assert now() == pytest.approx(1.0)

    run_virtual(main)


def test_delay_of_zero_batches_two_at_most_as_torchserve_does() -> None:
    async def main() -> None:
        queue = a_queue(Delay(0.0), batch_size=8)
        put(queue, 5)
        assert [len(await queue.take()) for _ in range(3)] == [2, 2, 1]

    run_virtual(main)


def test_only_one_worker_fills_at_a_time() -> None:
    async def main() -> None:
        queue = a_queue(Delay(1.0), batch_size=2)
        first = asyncio.create_task(queue.take())
        second = asyncio.create_task(queue.take())
        jobs = put(queue, 1)
        later(0.5, lambda: jobs.extend(put(queue, 1)))
        later(0.6, lambda: jobs.extend(put(queue, 1)))
        assert await first == jobs[:2]
        assert now() == pytest.approx(0.5)
        assert await second == jobs[2:]
        assert now() == pytest.approx(1.6)

    run_virtual(main)


@pytest.mark.parametrize("policy", [Eager(), Delay(0.1)])
def test_a_describe_job_travels_alone(policy: Policy) -> None:
    async def main() -> None:
        queue = a_queue(policy)
        before = put(queue, 2)
        describe = a_job("describe")
        queue.put(describe)
        after = put(queue, 2)
        assert [await queue.take() for _ in range(3)] == [before, [describe], after]

    run_virtual(main)


@pytest.mark.parametrize("policy", [Eager(), Delay(0.1)])
def test_explanations_and_predictions_share_no_batch(policy: Policy) -> None:
    async def main() -> None:
        queue = a_queue(policy)
        kinds: list[Kind] = ["predict", "predict", "explain", "explain", "predict"]
        jobs = [a_job(kind) for kind in kinds]
        for job in jobs:
            queue.put(job)
        batches = [await queue.take() for _ in range(3)]
        assert batches == [jobs[:2], jobs[2:4], jobs[4:]]

    run_virtual(main)


def test_no_mixed_batch_is_sent_ahead() -> None:
    async def main() -> None:
        queue = a_queue(Eager(), 2)
        jobs = [a_job("explain"), a_job(), a_job()]
        for job in jobs:
            queue.put(job)
        assert queue.take_ahead() == []
        assert queue.take_ahead(partial=True) == jobs[:1]
        assert queue.take_ahead() == jobs[1:]

    run_virtual(main)


def test_delay_stops_at_a_describe_job_that_comes_while_it_waits() -> None:
    async def main() -> None:
        queue = a_queue(Delay(5.0))
        jobs = put(queue)
        later(1.0, lambda: queue.put(a_job("describe")))
        assert await queue.take() == jobs
        assert now() == pytest.approx(1.0)

    run_virtual(main)


def test_refuses_beyond_capacity_and_without_workers() -> None:
    async def main() -> None:
        queue = JobQueue(Eager(), capacity=2, batch_size=1)
        assert not queue.put(a_job())
        queue.consumers = 1
        assert [queue.put(a_job()) for _ in range(3)] == [True, True, False]
        assert (len(queue), queue.remaining) == (2, 0)

    run_virtual(main)


def test_a_forming_batch_leaves_room_in_the_queue() -> None:
    async def main() -> None:
        queue = JobQueue(Delay(1.0), capacity=2, batch_size=8)
        queue.consumers = 1
        taking = asyncio.create_task(queue.take())
        for _ in range(3):
            assert queue.put(a_job())
            await asyncio.sleep(0)
        assert len(await taking) == 3

    run_virtual(main)


@pytest.mark.parametrize("policy", [Eager(), Delay(1.0)])
def test_cancelling_a_take_loses_no_job_and_keeps_the_order(policy: Policy) -> None:
    async def main() -> None:
        queue = a_queue(policy)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        jobs = put(queue, 2)
        await asyncio.sleep(0)
        taking.cancel()
        await asyncio.wait([taking])
        jobs += put(queue, 1)
        assert taking.cancelled()
        assert await queue.take() == jobs

    run_virtual(main)


def test_a_cancelled_job_leaves_the_queue_and_the_forming_batch() -> None:
    async def main() -> None:
        queue = a_queue(Delay(1.0))
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        jobs = put(queue, 3)
        await asyncio.sleep(0)
        assert len(queue) == 0
        assert queue.remove(jobs[1])
        assert not queue.remove(jobs[1])
        assert await taking == [jobs[0], jobs[2]]

    run_virtual(main)


def test_take_goes_on_when_all_jobs_of_its_batch_were_cancelled() -> None:
    async def main() -> None:
        for policy in (Eager(), Delay(1.0)):
            queue = a_queue(policy)
            taking = asyncio.create_task(queue.take())
            await asyncio.sleep(0)
            queue.remove(put(queue)[0])
            for _ in range(3):
                await asyncio.sleep(0)
            assert not taking.done()
            jobs = put(queue)
            assert await taking == jobs

    run_virtual(main)


def late(waiting: bool) -> RequestTimeout:
    return RequestTimeout("waiting" if waiting else "in a worker")


def test_a_job_fails_at_its_deadline_wherever_it_is() -> None:
    async def main() -> None:
        queue = a_queue(Eager(), client_timeout=2.0, expired=late)
        (first,) = put(queue)
        await asyncio.sleep(1.5)
        (second,) = put(queue)
        with pytest.raises(RequestTimeout, match="waiting"):
            await first.future
        assert now() == pytest.approx(2.0)
        assert await queue.take() == [second]
        with pytest.raises(RequestTimeout, match="in a worker"):
            await second.future
        assert now() == pytest.approx(3.5)

    run_virtual(main)


@pytest.mark.parametrize(("put_back_at", "where"), [(1.0, "waiting"), (2.2, "in a worker")])
def test_a_job_that_is_put_back_keeps_its_deadline(put_back_at: float, where: str) -> None:
    async def main() -> None:
        queue = a_queue(Eager(), 1, client_timeout=2.0, expired=late)
        (job,) = put(queue)
        assert queue.take_ahead() == [job]
        later(put_back_at, lambda: queue.put_back([job]))
        with pytest.raises(RequestTimeout, match=where):
            await job.future
        assert now() == pytest.approx(2.0)
        await asyncio.sleep(5)
        assert len(queue) == 0

    run_virtual(main)


def test_a_job_in_a_forming_batch_expires_and_the_batch_goes_on() -> None:
    async def main() -> None:
        queue = a_queue(Delay(9.0), client_timeout=2.0, expired=late)
        taking = asyncio.create_task(queue.take())
        (job,) = put(queue)
        with pytest.raises(RequestTimeout, match="waiting"):
            await job.future
        assert now() == pytest.approx(2.0)
        await asyncio.sleep(6)
        (next_one,) = put(queue)
        assert await taking == [next_one]

    run_virtual(main)


def test_an_answer_in_time_leaves_no_timer() -> None:
    async def main() -> None:
        queue = a_queue(Eager(), client_timeout=2.0, expired=late)
        (job,) = put(queue)
        job.answer(Response(b"id", 200, "", b"", b""))
        await asyncio.sleep(0)
        (begun,) = put(queue)
        begun.chunk(ReplyChunk(b"id", 200, "", b"", b"part"))
        await asyncio.sleep(5)
        assert begun.stream is not None
        assert not begun.stream.ended

    run_virtual(main)


def test_dismiss_answers_those_who_wait_and_those_in_a_forming_batch() -> None:
    async def main() -> None:
        queue = a_queue(Delay(1.0), batch_size=2)
        taking = asyncio.create_task(queue.take())
        await asyncio.sleep(0)
        jobs = put(queue, 1)
        await asyncio.sleep(0)
        assert len(queue) == 0
        queue.dismiss(lambda: ModelNotFound("gone"))
        for job in jobs:
            with pytest.raises(ModelNotFound):
                await job.future
        assert not queue.put(a_job())
        taking.cancel()
        await asyncio.wait([taking])
        assert len(queue) == 0

    run_virtual(main)


def test_join_waits_for_every_finish() -> None:
    async def main() -> None:
        queue = a_queue(Eager())
        await queue.join()
        put(queue, 2)
        joining = asyncio.create_task(queue.join())
        await queue.take()
        queue.finish()
        await asyncio.sleep(0)
        assert not joining.done()
        queue.finish()
        await joining

    run_virtual(main)


@given(
    batch_size=st.integers(1, 5),
    delay=st.one_of(st.none(), st.floats(0.0, 0.3)),
    arrivals=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=25),
    takers=st.integers(1, 3),
)
def test_every_job_is_taken_once_and_in_order(
    batch_size: int, delay: float | None, arrivals: list[float], takers: int
) -> None:
    async def main() -> None:
        queue = a_queue(Eager() if delay is None else Delay(delay), batch_size)
        sent: list[Job] = []
        taken: list[Job] = []

        async def take() -> None:
            while True:
                batch = await queue.take()
                assert 1 <= len(batch) <= batch_size
                taken.extend(batch)

        tasks = [asyncio.create_task(take()) for _ in range(takers)]
        for moment in arrivals:
            later(moment, lambda: sent.extend(put(queue)))
        await asyncio.sleep(3)
        assert taken == sent
        assert len(sent) == len(arrivals)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    run_virtual(main)
