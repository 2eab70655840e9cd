"""`RankGroup` over ranks in memory: who is sent what, and when; who ends with whom."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.core_rig import until
from tests.fakes import FakeRank, LoadFailed, run_virtual
from tests.worker.conftest import Events, predict_message
from ts_worker.backend.base import ExitReason, Ranks, WorkerGone, WorkerSpec
from ts_worker.backend.group import RankGroup, rank_specs
from ts_worker.messages import Reply


class GroupRig:
    """A group, its ranks, and what it told."""

    def __init__(self, count: int = 2, all_predict: bool = True, **more: Any) -> None:
        self.ranks = [FakeRank(number) for number in range(count)]
        self.ended = 0
        self.replies: list[Any] = []
        described = spec(Ranks(count, 29500, all_predict), **more)
        self.group = RankGroup(described, self.ranks, self._end)

    def _end(self) -> None:
        self.ended += 1

    def predict(self, batch_id: int) -> None:
        self.group.predict(predict_message(b"", batch_id=batch_id), self.replies.append)

    def sent(self) -> list[list[int]]:
        """Ids of the batches that each rank was sent."""
        return [[batch.batch_id for batch in rank.batches] for rank in self.ranks]


def spec(ranks: Ranks | None, **more: Any) -> WorkerSpec:
    fields: dict[str, Any] = {"id": "29500", "model_name": "m", "model_version": "1.0"}
    fields |= {"model_dir": "/m", "handler": "h.py", "events": Events(), "ranks": ranks}
    return WorkerSpec(**fields | more)


async def test_a_batch_goes_to_all_ranks_and_the_first_answers() -> None:
    rig = GroupRig(3)
    rig.predict(1)
    assert rig.sent() == [[1], [1], [1]]
    rig.ranks[1].finish("of rank 1")
    assert rig.replies == []
    rig.ranks[0].finish("of rank 0")
    assert [reply.message for reply in rig.replies] == ["of rank 0"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_the_next_batch_waits_until_each_rank_has_finished(order: tuple[int, int]) -> None:
    rig = GroupRig()
    for batch in (1, 2, 3):
        rig.predict(batch)
    for batch in (1, 2, 3):
        assert rig.sent() == [list(range(1, batch + 1))] * 2
        rig.ranks[order[0]].finish()
        assert rig.sent() == [list(range(1, batch + 1))] * 2
        rig.ranks[order[1]].finish()
    assert [reply.batch_id for reply in rig.replies] == [1, 2, 3]


async def test_a_sign_of_life_is_passed_on_and_ends_nothing() -> None:
    rig = GroupRig()
    rig.predict(1)
    rig.predict(2)
    rig.ranks[1].finish()
    rig.ranks[0].say(Reply(1, 200, "", ()))
    assert len(rig.replies) == 1
    assert rig.sent() == [[1], [1]]


async def test_a_pipeline_is_sent_batches_at_its_first_rank_without_waiting() -> None:
    rig = GroupRig(all_predict=False)
    rig.predict(1)
    rig.predict(2)
    assert rig.sent() == [[1, 2], []]
    rig.group.cancel(b"1-0")
    assert [rank.cancelled for rank in rig.ranks] == [[b"1-0"], []]


async def test_ranks_in_step_learn_of_no_client_that_left() -> None:
    rig = GroupRig()
    rig.predict(1)
    rig.group.cancel(b"1-0")
    assert [rank.cancelled for rank in rig.ranks] == [[], []]


async def test_holding_and_threads() -> None:
    rig = GroupRig()
    rig.group.hold(True)
    rig.group.resize(3)
    assert [rank.held for rank in rig.ranks] == [True, False]
    assert [rank.threads for rank in rig.ranks] == [3, 3]


async def test_one_that_ends_takes_the_others_along() -> None:
    rig = GroupRig(3)
    rig.predict(1)
    rig.predict(2)
    rig.ranks[1].end(ExitReason(None, 11, "killed by SIGSEGV", ("last line",)))
    assert await rig.group.exited() == ExitReason(
        None, 11, "rank 1: killed by SIGSEGV", ("last line",)
    )
    assert [rank.ended for rank in rig.ranks] == [True] * 3
    assert rig.ended == 1
    with pytest.raises(WorkerGone):
        rig.predict(3)
    assert rig.sent() == [[1]] * 3


def test_a_group_that_is_out_of_step_is_ended_without_a_next_batch() -> None:
    async def main() -> None:
        rig = GroupRig(3, response_timeout=6)
        rig.predict(1)
        rig.ranks[1].finish()
        rig.ranks[0].finish()
        await asyncio.sleep(5.9)
        rig.predict(2)
        assert not any(rank.ended for rank in rig.ranks)
        await asyncio.sleep(0.2)
        reason = await rig.group.exited()
        assert reason.timed_out
        text = "rank 2: still at a batch that rank 0 has answered responseTimeout=6 s ago"
        assert (reason.code, reason.signal, reason.text) == (None, None, text)
        assert not rig.group.begun
        with pytest.raises(WorkerGone):
            rig.predict(3)
        assert rig.sent() == [[1]] * 3

    run_virtual(main)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_ranks_that_finish_in_time_have_no_limit(order: tuple[int, int]) -> None:
    async def main() -> None:
        rig = GroupRig(response_timeout=6)
        rig.predict(1)
        for number in order:
            await asyncio.sleep(5)
            rig.ranks[number].finish()
        await asyncio.sleep(100)
        assert not any(rank.ended for rank in rig.ranks)

    run_virtual(main)


@pytest.mark.parametrize("answered", [False, True])
async def test_what_waits_for_a_rank_that_ends_has_not_begun(answered: bool) -> None:
    rig = GroupRig()
    rig.predict(1)
    rig.predict(2)
    if answered:
        rig.ranks[0].finish()
    rig.ranks[1].end(ExitReason(1, None, "exit code 1"))
    await rig.group.exited()
    assert rig.group.begun is not answered
    assert not GroupRig().group.begun
    assert GroupRig(all_predict=False).group.begun


async def test_stopping_lets_each_rank_end_by_itself() -> None:
    rig = GroupRig()
    stopping = asyncio.ensure_future(rig.group.stop(1.5))
    await until(lambda: all(rank.stops for rank in rig.ranks))
    rig.ranks[0].end(ExitReason(0, None, "exit code 0"))
    await rig.ranks[0].stop(0)
    assert not rig.ranks[1].ended
    assert rig.ended == 0
    rig.ranks[1].end(ExitReason(0, None, "exit code 0"))
    await stopping
    assert [rank.stops for rank in rig.ranks] == [[1.5, 0], [1.5]]
    assert (await rig.group.exited()).text == "rank 0: exit code 0"


async def begin(rig: GroupRig) -> asyncio.Future[None]:
    """A load that all ranks are at."""
    loading = asyncio.ensure_future(rig.group.load())
    await until(lambda: all(rank.loading for rank in rig.ranks))
    return loading


async def test_all_ranks_load_at_the_same_time() -> None:
    rig = GroupRig()
    loading = await begin(rig)
    rig.ranks[1].load_result.set_result(None)
    await rig.ranks[1].load()
    assert not loading.done()
    rig.ranks[0].load_result.set_result(None)
    await loading


async def test_the_first_failure_of_a_load_is_told() -> None:
    rig = GroupRig()
    loading = await begin(rig)
    rig.ranks[1].load_result.set_exception(LoadFailed(507, "no memory", "where"))
    rig.ranks[0].load_result.set_exception(LoadFailed(500, "rank 1 has gone"))
    with pytest.raises(LoadFailed) as failure:
        await loading
    told = failure.value
    assert (told.code, told.message, told.traceback) == (507, "rank 1: no memory", "where")


async def test_a_loaded_rank_that_ends_fails_the_load_of_the_others() -> None:
    rig = GroupRig()
    loading = await begin(rig)
    rig.ranks[1].load_result.set_result(None)
    await rig.ranks[1].load()
    rig.ranks[1].end(ExitReason(None, 9, "killed by SIGKILL", ("last",)))
    with pytest.raises(LoadFailed, match=r"^rank 1: the worker process ended") as failure:
        await loading
    assert (failure.value.code, failure.value.traceback) == (507, "last")


def test_each_rank_is_told_what_torchrun_tells() -> None:
    class Parts(Events):
        def of_rank(self, rank: int) -> str:
            return f"events of {rank}"

    ranks = Ranks(2, 29500, True)
    made = rank_specs(spec(ranks, events=Parts(), device=0, env={"A": "b"}), ranks, 29511)
    assert [one.events for one in made] == ["events of 0", "events of 1"]
    assert [(one.rank, one.device) for one in made] == [(0, 0), (1, 1)]
    assert {name: value for name, value in made[1].env.items() if "RANK" not in name} == {
        "A": "b",
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "TORCHELASTIC_RUN_ID": "m_29500",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "LOGLEVEL": "INFO",
    }
    numbers = {name: value for name, value in made[1].env.items() if "RANK" in name}
    assert numbers == {"RANK": "1", "LOCAL_RANK": "1", "ROLE_RANK": "1", "GROUP_RANK": "0"}
    assert [one.device for one in rank_specs(spec(ranks, events=Parts()), ranks, 1)] == [None, None]
