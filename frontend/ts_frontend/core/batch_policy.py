"""The ways to form a batch from a queue: at once, or after TorchServe's wait. The third, under a
latency target, is in `target_queue`.

`model` chooses one for the `JobQueue` of a version.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, Protocol

from ts_frontend.core.meter import Departure

if TYPE_CHECKING:
    from ts_frontend.core.batching import JobQueue


class Policy(Protocol):
    """Decides when a batch is complete."""

    ahead: bool  # whether a busy worker may be sent its next batch before it asks

    async def fill(self, queue: JobQueue) -> Departure:
        """Move jobs into the forming batch, and say why it leaves now; cancelling leaves them to
        the queue."""


class Eager:
    """Work-conserving: an idle worker takes what waits, after one turn of the loop.

    The turn lets requests that arrived together travel together; workers that idle together share
    them. While every worker is busy the next batch fills, so the delay of the model is never waited
    for.
    """

    ahead = True

    async def fill(self, queue: JobQueue) -> Departure:
        while not await queue.arrival():
            pass
        if len(queue) < queue.batch_size:
            await asyncio.sleep(0)
        share = -(-len(queue) // max(1, queue.takers))
        while share > 0 and queue.move():
            share -= 1
        return "idle_worker" if queue.growing and not share else "full"


class Delay:
    """TorchServe's wait: ``maxBatchDelay`` from when the first job was taken.

    As there, the time is looked at after each job, so that a delay of 0 batches two jobs at most.

    Args:
        delay: seconds.
    """

    ahead = False  # to the letter: a batch is formed when a worker is there to take it

    def __init__(self, delay: float) -> None:
        self.delay = delay

    async def fill(self, queue: JobQueue) -> Departure:
        while not await queue.arrival():
            pass
        queue.move()
        clock = queue.loop.time
        until = clock() + self.delay
        while queue.growing:
            if await queue.arrival(until) and not queue.move():
                return "full"
            if clock() >= until:
                return "delay" if queue.growing else "full"
        return "full"


def make_policy(name: Literal["eager", "delay"], max_batch_delay: int) -> Policy:
    """The policy of ``batchPolicy``; ``max_batch_delay`` in milliseconds matters to `Delay`."""
    return Delay(max_batch_delay / 1000) if name == "delay" else Eager()
