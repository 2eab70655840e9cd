"""A worker of several processes, its ranks, which compute one model together.

`process` makes one where a `WorkerSpec` has ranks; to all others it is a worker like any other.
The ranks are told what torchrun tells its processes. Nothing else of it is needed: they are all on
this machine, and who restarts them is the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ts_worker.backend.base import (
    Batch,
    ExitReason,
    LoadFailed,
    Ranks,
    ReplySink,
    WorkerGone,
    WorkerSpec,
)
from ts_worker.backend.worker import ProcessWorker, ended_early
from ts_worker.messages import Reply, ReplyChunk


class RankGroup:
    """Lives and dies as one: when one rank ends, the others are ended.

    Where a batch goes to all ranks they are kept in step: the next one is sent once each has
    finished the one before. A rank that is ahead of another would mix two batches in one collective
    operation, and clients would get each other's answers. Where rank 0 has answered a batch and
    others do not finish it within ``response_timeout``, they never will: the group is ended, and
    what waits has not been begun.

    Args:
        ranks: processes that have just been started, in order.
        ended: called once the last of them has ended.
    """

    def __init__(
        self, spec: WorkerSpec, ranks: Sequence[ProcessWorker], ended: Callable[[], None]
    ) -> None:
        assert spec.ranks is not None
        self._spec = spec
        self._ranks = ranks
        self._all_predict = spec.ranks.all_predict
        self._left = len(ranks)
        self._waiting: deque[tuple[Batch, ReplySink]] = deque()
        self._stopping = False
        self._computing = False  # rank 0, at a batch that went to all
        self._lag: asyncio.TimerHandle | None = None  # of the others behind rank 0
        self._first: tuple[int, ExitReason] | None = None  # rank that ended, and why
        self._when_ended = ended
        self._gone: asyncio.Future[ExitReason] = asyncio.get_running_loop().create_future()
        for number, rank in enumerate(ranks):
            rank.when_gone(partial(self._rank_gone, number))

    @property
    def id(self) -> str:
        return self._spec.id

    @property
    def pid(self) -> int | None:
        """Rank 0's."""
        return self._ranks[0].pid

    @property
    def device(self) -> int | None:
        return self._spec.device

    @property
    def begun(self) -> bool:
        return self._computing or not self._all_predict

    async def load(self) -> None:
        """Load the model in all ranks at the same time: they wait for each other.

        Raises:
            LoadFailed: one could not; of several, the first. The others are still to be ended.
        """
        try:
            async with asyncio.TaskGroup() as loads:
                for number, rank in enumerate(self._ranks):
                    loads.create_task(self._load(number, rank))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def _load(self, number: int, rank: ProcessWorker) -> None:
        try:
            await rank.load()
        except LoadFailed as error:
            failed = error
            if self._first is not None and self._first[0] != number:
                # This one was only ended because another one had.
                number, failed = self._first[0], ended_early(self._first[1])
            text = f"rank {number}: {failed.message}"
            raise LoadFailed(failed.code, text, failed.traceback) from None

    def predict(self, batch: Batch, reply: ReplySink) -> None:
        if self._first is not None or any(rank.ended for rank in self._ranks):
            raise WorkerGone
        if not self._all_predict:
            self._ranks[0].predict(batch, reply)
            return
        self._waiting.append((batch, reply))
        self._advance()

    def cancel(self, request_id: bytes) -> None:
        # Ranks would see it at different moments, and go different ways from there.
        if not self._all_predict:
            self._ranks[0].cancel(request_id)

    def hold(self, on: bool) -> None:
        self._ranks[0].hold(on)

    def resize(self, threads: int) -> None:
        for rank in self._ranks:
            rank.resize(threads)

    async def stop(self, grace: float) -> None:
        self._stopping = True
        await asyncio.gather(*(rank.stop(grace) for rank in self._ranks))

    async def stacks(self) -> str:
        """Where the threads of all ranks stand."""
        stacks = await asyncio.gather(*(rank.stacks() for rank in self._ranks))
        return "\n".join(f"Rank {number}:\n{stack}" for number, stack in enumerate(stacks))

    async def kill(self) -> None:
        """End all ranks at once and wait for them."""
        await asyncio.gather(*(rank.kill() for rank in self._ranks))

    async def exited(self) -> ExitReason:
        return await asyncio.shield(self._gone)

    def _advance(self) -> None:
        """Send the next batch, if each rank lives and has finished the last one."""
        if self._first is not None or not all(rank.idle for rank in self._ranks):
            return
        self._stop_watching()
        if not self._waiting or any(rank.ended for rank in self._ranks):
            return
        batch, reply = self._waiting.popleft()

        def answered(message: Reply | ReplyChunk) -> None:
            if self._ranks[0].idle:
                self._computing = False
                self._watch()
            reply(message)
            self._advance()

        self._computing = True
        for number, rank in enumerate(self._ranks):
            rank.predict(batch, self._finished if number else answered)

    def _finished(self, _: Reply | ReplyChunk) -> None:
        """A rank other than 0 is done with its batch: what it came to there is nobody's answer."""
        self._advance()

    def _watch(self) -> None:
        """Give the ranks that have not finished what rank 0 has answered a limit."""
        timeout = self._spec.response_timeout
        if timeout is not None and not all(rank.idle for rank in self._ranks):
            self._lag = asyncio.get_running_loop().call_later(timeout, self._give_up, timeout)

    def _stop_watching(self) -> None:
        if self._lag is not None:
            self._lag.cancel()
            self._lag = None

    def _give_up(self, timeout: float) -> None:
        late = [number for number, rank in enumerate(self._ranks) if not rank.idle]
        if not late:  # it has ended this moment
            return
        text = f"still at a batch that rank 0 has answered responseTimeout={timeout} s ago"
        self._first = (late[0], ExitReason(None, None, text, timed_out=True))
        self._waiting.clear()
        self._doom()

    def _doom(self) -> None:
        for rank in self._ranks:
            rank.doom()

    def _rank_gone(self, number: int, reason: ExitReason) -> None:
        self._left -= 1
        if self._first is None:
            self._first = (number, reason)
            self._waiting.clear()
            self._stop_watching()
            if not self._stopping:
                self._doom()
        if not self._left:
            first, reason = self._first
            self._gone.set_result(replace(reason, text=f"rank {first}: {reason.text}"))
            self._when_ended()


def rank_specs(spec: WorkerSpec, ranks: Ranks, port: int) -> list[WorkerSpec]:
    """What each rank is started with: the environment of torchrun's processes, a log of its own,
    and as its device the number that its GPU has among those it sees."""
    return [
        replace(
            spec,
            rank=rank,
            events=spec.events.of_rank(rank),
            device=None if spec.device is None else rank,
            env={**spec.env, **_environment(spec, ranks.count, rank, port)},
        )
        for rank in range(ranks.count)
    ]


def _environment(spec: WorkerSpec, count: int, rank: int, port: int) -> dict[str, str]:
    number, size = str(rank), str(count)
    return {
        "RANK": number,
        "LOCAL_RANK": number,
        "ROLE_RANK": number,
        "GROUP_RANK": "0",
        "WORLD_SIZE": size,
        "LOCAL_WORLD_SIZE": size,
        "ROLE_WORLD_SIZE": size,
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"{spec.model_name}_{spec.id}",
        "TORCHELASTIC_RESTART_COUNT": "0",
        "TORCHELASTIC_MAX_RESTARTS": "0",
        # Rank 0 keeps the store that the others meet at, not an agent as under torchrun.
        "TORCHELASTIC_USE_AGENT_STORE": "False",
        "LOGLEVEL": "INFO",
    }
