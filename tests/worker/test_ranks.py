"""Workers of several real processes: they compute together, and live and die as one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from tests.worker.conftest import Events, alive, ask, until
from ts_worker.backend.base import LoadFailed, Ranks, WorkerSpec

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

MARS = Path(__file__).parents[1] / "mars"
ONES = json.dumps({"x": [1.0] * 8}).encode()


class RankEvents(Events):
    """Events of a worker with those of its ranks."""

    def __init__(self) -> None:
        super().__init__()
        self.ranks: list[Events] = []

    def of_rank(self, rank: int) -> Events:
        assert rank == len(self.ranks)
        self.ranks.append(Events())
        return self.ranks[-1]

    @property
    def processes(self) -> list[int]:
        return [pid for rank in self.ranks for pid in rank.pids]


@pytest.fixture
def group(spec):
    """A function that describes a worker of two ranks."""

    def make(
        mar: str = "two_ranks", all_predict: bool = True, yaml: str = "", source: str = "", **more
    ) -> WorkerSpec:
        made = spec(
            source or (MARS / f"{mar}.py").read_text(),
            events=RankEvents(),
            ranks=Ranks(2, 29500, all_predict),
            **more,
        )
        folder = Path(made.model_dir)
        (folder / "MAR-INF").mkdir()
        manifest = {"model": {"handler": "handler_of_test.py", "configFile": "config.yaml"}}
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        (folder / "config.yaml").write_text(yaml)
        return made

    return make


def told(reply, row: int = 0):
    return json.loads(bytes(reply.responses[row].body))


async def test_both_ranks_are_needed_for_an_answer(backend, group):
    both = group()
    worker = await backend.start(both)
    reply, _ = await ask(worker, ONES, ONES)
    assert (told(reply), told(reply, 1)) == ({"sum": 36.0}, {"sum": 36.0})
    first, second = told((await ask(worker, b'"where"', batch_id=2))[0])
    assert [first["pid"], second["pid"]] == both.events.processes
    assert worker.pid == first["pid"]
    assert (first["RANK"], second["RANK"]) == ("0", "1")
    assert first["MASTER_PORT"] == second["MASTER_PORT"] >= "29500"
    await until(lambda: ("stdout", "initializing rank 1") in both.events.ranks[1].lines)
    assert ("stdout", "initializing rank 1") not in both.events.ranks[0].lines
    await worker.stop(5)
    assert (await worker.exited()).code == 0
    assert not any(map(alive, both.events.processes))


async def test_two_workers_meet_at_two_ports(backend, group):
    spec = group()
    other = replace(spec, events=RankEvents())
    workers = await asyncio.gather(backend.start(spec), backend.start(other))
    answers = [told((await ask(worker, b'"where"'))[0]) for worker in workers]
    assert answers[0][0]["MASTER_PORT"] != answers[1][0]["MASTER_PORT"]
    await asyncio.gather(*(worker.stop(5) for worker in workers))


async def test_a_pipeline_gets_its_batches_at_the_first_stage(backend, group):
    worker = await backend.start(group("two_stages", all_predict=False))
    reply, _ = await ask(worker, b"20", b"3")
    assert [told(reply, row) for row in (0, 1)] == [41.0, 7.0]
    await worker.stop(5)


async def test_a_pipeline_over_torchs_rpc(backend, group):
    worker = await backend.start(group("rpc_stages", all_predict=False))
    reply, _ = await ask(worker, b"20", b"3")
    assert [told(reply, row) for row in (0, 1)] == [[41.0, 1], [7.0, 1]]
    await worker.stop(5)


@pytest.mark.parametrize("rank", [0, 1])
async def test_one_killed_rank_ends_the_worker(backend, group, rank):
    both = group()
    worker = await backend.start(both)
    os.kill(both.events.processes[rank], signal.SIGKILL)
    reason = await worker.exited()
    assert (reason.signal, reason.text) == (9, f"rank {rank}: killed by SIGKILL")
    assert not any(map(alive, both.events.processes))


async def test_a_rank_that_can_not_load_is_named(backend, group):
    both = group(yaml="broken_rank: 1\n")
    with pytest.raises(LoadFailed) as failure:
        await backend.start(both)
    assert failure.value.message == "rank 1: ValueError: this rank has no weights"
    assert "in initialize" in failure.value.traceback
    assert len(both.events.processes) == 2
    assert not any(map(alive, both.events.processes))


async def test_a_rank_that_ends_while_others_wait_for_it_is_named(backend, group):
    both = group(yaml="late_rank: 1\n")
    starting = asyncio.ensure_future(backend.start(both))
    await until(lambda: len(both.events.processes) == 2)
    await until(lambda: ("stdout", "initializing rank 0") in both.events.ranks[0].lines)
    os.kill(both.events.processes[1], signal.SIGKILL)
    with pytest.raises(LoadFailed, match="rank 1: the worker process ended") as failure:
        await starting
    assert failure.value.code == 507
    assert not any(map(alive, both.events.processes))


async def test_a_load_that_takes_too_long_tells_where_each_rank_stands(backend, group):
    late = group(yaml="late_rank: 1\n", startup_timeout=6.0)
    with pytest.raises(LoadFailed, match="did not load within") as failure:
        await backend.start(late)
    first, second = failure.value.traceback.split("Rank 1:\n")
    assert first.startswith("Rank 0:\n")
    assert "in be_late" in second
    assert "in be_late" not in first
    assert not any(map(alive, late.events.processes))


async def test_ranks_that_are_out_of_step_mix_no_batches(backend, group):
    """Rank 0 gives up before the sum, in which rank 1 still waits for it."""
    both = group()
    worker = await backend.start(both)
    reply, _ = await ask(worker, json.dumps({"x": [1.0] * 8, "fails": 0}).encode())
    assert reply.code == 503
    replies = []
    next_one = asyncio.ensure_future(ask(worker, ONES, batch_id=2))
    next_one.add_done_callback(lambda _: replies.append(1))
    # Nothing may come: the pump gives it up after its responseTimeout.
    await asyncio.wait([next_one], timeout=0.5)
    assert not replies
    await worker.stop(0)
    with pytest.raises(AssertionError, match="the worker ended"):
        await next_one


async def test_ranks_that_are_out_of_step_are_replaced(backend, group):
    both = group(response_timeout=0.5)
    worker = await backend.start(both)
    await ask(worker, json.dumps({"x": [1.0] * 8, "fails": 0}).encode())
    reason = await asyncio.wait_for(worker.exited(), 10)
    assert reason.timed_out
    assert reason.text.startswith("rank 1: still at a batch")
    assert not worker.begun
    assert not any(map(alive, both.events.processes))


BLAMES = """
import torch
from torch import distributed

class Handler:
    def initialize(self, context):
        distributed.init_process_group("gloo")

    def handle(self, data, context):
        sums = torch.tensor([float(bytes(row["body"])) for row in data])
        distributed.all_reduce(sums)
        for index, value in enumerate(sums.tolist()):
            if value < 0 and distributed.get_rank() == 0:
                error = ValueError("negative")
                error.request_index = index
                raise error
            if value > 100 and distributed.get_rank() == 0:
                raise MemoryError
        return sums.tolist()
"""


async def test_ranks_in_step_run_nothing_again(backend, group):
    """Rank 0 would wait in the sum for rank 1, which has its answer already."""
    both = group(yaml="isolateErrors: true\n", source=BLAMES)
    worker = await backend.start(both)
    for batch_id, body, code in ((1, b"-1", 503), (2, b"100", 507)):
        reply, _ = await asyncio.wait_for(ask(worker, b"1", body, batch_id=batch_id), 10)
        assert (reply.code, reply.responses) == (code, ())
        reply, _ = await asyncio.wait_for(ask(worker, b"1", batch_id=batch_id + 10), 10)
        assert told(reply) == 2.0
    first, second = both.events.ranks
    off = "isolateErrors is off: several processes get each batch of this model"
    await until(lambda: off in [record.text for record in first.records])
    assert off not in [record.text for record in second.records]
    await worker.stop(5)


SPEAKS = """
import os

def handle(data, context):
    if data is None:
        return None
    print("rank", os.environ["RANK"], "has", len(data))
    from ts.handler_utils.utils import send_intermediate_predict_response as send
    send([f"part of {os.environ['RANK']}" for _ in data], context.request_ids, "ok", 200, context)
    return [b"x" * 1000 + os.environ["RANK"].encode() for _ in data]
"""


async def test_only_rank_0_is_heard(backend, spec):
    both = spec(SPEAKS, events=RankEvents(), ranks=Ranks(2, 29500, True))
    worker = await backend.start(both)
    reply, chunks = await ask(worker, b"", b"")
    assert [bytes(one.body)[-2:] for one in reply.responses] == [b"x0", b"x0"]
    assert [bytes(chunk.body) for chunk in chunks] == [b"part of 0"] * 2
    await until(lambda: ("stdout", "rank 1 has 2") in both.events.ranks[1].lines)
    await worker.stop(5)


def warm(spec: WorkerSpec) -> WorkerSpec:
    folder = Path(spec.model_dir, "warmup")
    folder.mkdir()
    (folder / "one.bin").write_text("1")
    return spec


async def test_a_pipeline_is_warmed_up_at_its_first_stage(backend, group):
    worker = await backend.start(warm(group("two_stages", all_predict=False)))
    reply, _ = await ask(worker, b"2")
    assert told(reply) == 5.0
    await worker.stop(5)


async def test_ranks_in_step_are_not_warmed_up(backend, group):
    both = warm(group())
    worker = await backend.start(both)
    first, second = both.events.ranks
    await until(lambda: any("Warm-up is left out" in one.text for one in first.records))
    assert not [one for one in second.records if "Warm-up" in one.text]
    await worker.stop(5)
