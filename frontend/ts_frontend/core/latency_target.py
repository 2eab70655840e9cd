"""Decides under a latency target which requests are taken in, which leave together, and when.

Pure: it is told the time and what happens, and sets nothing going. `target_queue` asks it, the
pumps of `dispatch` tell it what their workers do.

The ideas are those of Clockwork, Nexus and Symphony: a batch costs what it cost before, so a
promise can be checked before it is given. A request that nobody can answer in time is refused when
it comes, before it costs a worker anything.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Any, Literal

from ts_frontend.core.batch_cost import BatchCost

# Kept of the target for the way from the client and back to it, which nobody here can see. On a
# busy machine a request waits a millisecond or two in its socket before the server reads it.
_EDGE_SECONDS = 0.001
_EDGE_SHARE = 0.03
_TIMER = 0.001  # seconds by which the loop may be late to wake one who waits
_EPSILON = 1e-6
# Promises are given with a margin on what batches cost, which one late answer raises and many that
# are in time lower, so that about one of 150 is late: 99 of 100 are to be in time.
_LATE_SHARE = 1 / 150
_MARGIN_STEP = 0.01
_MOST_LATE = 2  # of one batch that count: one that takes for ever tells no more
_FIRST_MARGIN, _LEAST_MARGIN, _MOST_MARGIN = 1.1, 0.95, 2.0
_RATE_WINDOW = 2.0  # targets over which the rate of arrivals is averaged
_WORTH_WAITING = 1.0  # requests that must be expected for an idle worker to wait for them
_FRESH = 0.0005  # seconds for which the times of free workers are taken from the last look

Why = Literal["full", "idle_worker", "deadline"]


@dataclass(slots=True)
class _Crew:
    """One worker: when it began its oldest batch, and when the requests of each batch that it has
    came, oldest first."""

    begun: float = 0.0
    batches: list[Sequence[float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Choice:
    """What to do with those that wait, oldest first.

    Args:
        drop: so many can no longer be answered in time, or would keep more others from it.
        take: so many of the next leave now, for the reason ``why``; 0: wait.
        until: when to look again, if nobody comes before; None where nobody waits.
    """

    drop: int
    take: int
    why: Why = "idle_worker"
    until: float | None = None


class LatencyTarget:
    """The plan of one model version. All times are of one clock, in seconds.

    Args:
        seconds: within which a request is to be answered, from its arrival.
        batch_size: the most requests in a batch.
    """

    def __init__(self, seconds: float, batch_size: int) -> None:
        self.seconds = seconds
        self.budget = max(seconds / 2, seconds * (1 - _EDGE_SHARE) - _EDGE_SECONDS)
        self.cost = BatchCost(batch_size)
        self.margin = _FIRST_MARGIN
        self.size = batch_size  # of the batches planned with
        self._began = float("-inf")  # with the last batch
        self.rate = 0.0  # of arrivals a second, those that are refused included
        self._batch_size = batch_size
        self._arrivals = 0
        self._counted_at: float | None = None
        self._crews: dict[Hashable, _Crew] = {}
        self._free: list[float] = []
        self._looked_at = float("-inf")

    # What happens.

    def join(self, worker: Hashable) -> None:
        """A worker is ready for batches."""
        self._crews[worker] = _Crew()
        self._looked_at = float("-inf")

    def leave(self, worker: Hashable) -> None:
        """It takes no more; may be repeated."""
        self._crews.pop(worker, None)
        self._looked_at = float("-inf")

    def sent(self, worker: Hashable, arrived: Sequence[float], now: float) -> None:
        """A batch has gone to a worker, which may still be busy with others.

        Args:
            arrived: when its requests came.
        """
        crew = self._crews.get(worker)
        if crew is not None:
            if not crew.batches:
                crew.begun = now
            crew.batches.append(arrived)
        self._began = now
        self._count(now)
        self._looked_at = float("-inf")

    def done(
        self, worker: Hashable, size: int, seconds: float, now: float
    ) -> Sequence[float] | None:
        """A worker has answered its oldest batch, so long after it began with it.

        Returns:
            When its requests came: for `settle`, once their answers have been written.
        """
        arrived: Sequence[float] | None = None
        self.cost.observe(size, seconds)
        crew = self._crews.get(worker)
        if crew is not None:
            crew.begun = now
            if crew.batches:
                arrived = crew.batches.pop(0)
        self._resize()
        self._looked_at = float("-inf")
        return arrived

    def settle(self, arrived: Sequence[float], now: float) -> None:
        """The answers to a batch have left: set the margin by what became of its promises."""
        late = sum(now - one > self.budget for one in arrived)
        change = min(late, _MOST_LATE) - _LATE_SHARE * len(arrived)
        margin = self.margin + _MARGIN_STEP * change
        self.margin = min(_MOST_MARGIN, max(_LEAST_MARGIN, margin))

    # What to do.

    def admits(self, now: float, waiting: int, idle: int) -> bool:
        """Whether a request that comes now, behind so many others, can be answered in time.

        An idle worker turns nobody away: that costs nobody else anything, and is how a model that
        became quicker is found out.

        Args:
            idle: workers that wait for a batch.
        """
        self._arrivals += 1
        if waiting < idle * self.size or not self._crews:
            return True
        before, place = divmod(waiting, self.size)
        start = self._start(now, before)
        joining = place + 1 + self.rate * max(0.0, start - now)
        return start + self._late(min(self.size, int(joining) or 1)) <= now + self.budget

    def choose(
        self,
        now: float,
        arrived: Sequence[float],
        *,
        start: float | None = None,
        idle: bool = False,
    ) -> Choice:
        """What a worker is to take of those that wait.

        Args:
            arrived: when they came, oldest first; one or more.
            start: when the worker can begin, if it is busy; it never waits for more then.
            idle: it had nothing to do when the first of them came: it drops nobody.
        """
        begin = now if start is None else start
        drop = 0 if idle else self.hopeless(begin, arrived)
        if drop == len(arrived):
            return Choice(drop, 0)
        waiting = min(self.size, len(arrived) - drop)
        take = self._fitting(begin, arrived[drop], waiting)
        if take < waiting:
            further = 0
            if not idle:
                further, take = self._sacrifice(begin, arrived[drop:], take)
            return Choice(drop + further, take, "full" if take == self.size else "deadline")
        if take == self.size:
            return Choice(drop, take, "full")
        if start is not None or drop:
            return Choice(drop, take)
        last = self._last_moment(arrived[0], take)
        until = min(last, self._unhurried(now, take))
        if self.rate * (until - now) < _WORTH_WAITING:
            return Choice(0, take, "deadline" if until == last and last <= now else "idle_worker")
        return Choice(0, 0, until=until)

    def hopeless(self, begin: float, arrived: Sequence[float]) -> int:
        """How many of the oldest would be late even if each was a batch of its own at ``begin``."""
        before = begin + self.cost.mean(1) - self.budget
        count = 0
        while count < len(arrived) and arrived[count] < before:
            count += 1
        return count

    def body(self) -> dict[str, Any]:
        """The plan as describe shows it: milliseconds by batch size, of sizes that were seen."""
        return {
            "plannedBatchSize": self.size,
            "arrivalsPerSecond": round(self.rate, 1),
            "costMargin": round(self.margin, 3),
            "costMilliseconds": {
                str(size): round(self.cost.mean(size) * 1000, 3) for size in self.cost.seen
            },
        }

    def next_free(self, now: float) -> float:
        """When a worker is free to begin a batch."""
        free = self._free_at(now)
        return free[0] if free else now

    def expires(self, arrived: float) -> float:
        """From when on a request that still waits can't be answered in time."""
        return arrived + self.budget - self.cost.mean(1)

    # How it is worked out.

    def _fitting(self, begin: float, arrived: float, most: int) -> int:
        """The largest batch that answers its oldest request in time; at least 1."""
        left = arrived + self.budget - begin + _EPSILON
        size = most
        while size > 1 and self._late(size) > left:
            size -= 1
        return size

    def _sacrifice(self, begin: float, arrived: Sequence[float], take: int) -> tuple[int, int]:
        """How many to drop, and how many to take then, where the oldest request is so late that it
        keeps others out of its batch.

        Nobody is dropped where the others can be answered behind it. Else somebody will be late
        whatever is done, and the batch is chosen that answers most a second (Nexus' early drop).
        """
        others = min(self.size, len(arrived) - take)
        ready = begin + self.cost.mean(take)
        if ready + self._late(others) <= arrived[take] + self.budget:
            return 0, take
        best, drop = 0.0, 0
        for further in range(min(len(arrived), self.size)):
            size = min(self.size, len(arrived) - further)
            size = self._fitting(begin, arrived[further], size)
            worth = size / self.cost.mean(size)
            if worth > best:
                best, drop, take = worth, further, size
        return drop, take

    def _last_moment(self, arrived: float, take: int) -> float:
        """When a batch has to leave, with one more in it, for its oldest request to be in time."""
        return arrived + self.budget - self._late(min(self.size, take + 1)) - _TIMER

    def _unhurried(self, now: float, take: int) -> float:
        """Until when a batch is to wait for others, as far as its own requests allow.

        Where one who comes right behind it could still be answered by the same worker, waiting
        gains nothing. Else each batch shuts a door for a while: then the fewer and fuller batches
        are, the fewer requests are turned away (Symphony's deferred batches). Several workers
        begin at even distances, so that one of them is always about to be free.
        """
        span = self.cost.mean(take)
        behind = min(self.size, 1 + int(self.rate * span))
        if span + self._late(behind) <= self.budget:
            return now
        free = self._free_at(now)
        if len(free) > 1 and free[1] <= now:
            return self._began + span / len(free)
        return float("inf")

    def _start(self, now: float, before: int) -> float:
        """When a batch can begin that has so many full ones before it."""
        free = self._free_at(now)
        rounds, place = divmod(before, len(free))
        return free[place] + rounds * self.cost.mean(self.size)

    def _free_at(self, now: float) -> list[float]:
        """When each worker is free, soonest first."""
        if now - self._looked_at > _FRESH:
            self._looked_at = now
            self._free = sorted(self._until(crew, now) for crew in self._crews.values())
        return self._free

    def _until(self, crew: _Crew, now: float) -> float:
        if not crew.batches:
            return now
        first, *rest = map(len, crew.batches)
        behind = sum(map(self.cost.mean, rest))
        until = crew.begun + self.cost.mean(first)
        # One that is overdue is guessed to take as long again as it is late.
        return max(until, 2 * now - until) + behind

    def _late(self, size: int) -> float:
        """What a batch may take, for all that is promised."""
        return self.cost.mean(size) * self.margin

    def _count(self, now: float) -> None:
        """Average the rate of arrivals."""
        if self._counted_at is None:
            self._counted_at, self._arrivals = now, 0
            return
        passed = now - self._counted_at
        if passed < self.seconds / 4:
            return
        weight = 1 - exp(-passed / (_RATE_WINDOW * self.seconds))
        self.rate += (self._arrivals / passed - self.rate) * weight
        self._counted_at, self._arrivals = now, 0

    def _resize(self) -> None:
        """Plan with the size that answers most a second among those that can be in time."""
        best = 0.0
        self.size = 1
        for size in range(1, self._batch_size + 1):
            if self._late(size) > self.budget and size > 1:
                return
            worth = size / (self.cost.mean(size) or 1.0)
            if worth >= best:
                best, self.size = worth, size
