"""What every module in `suites/` offers to `run`, and what it is given.

A suite is a module with one function::

    def run(options: Options) -> Iterator[Row]: ...

It yields a row as soon as it has one, mostly with a single sample: rows of the same key are merged,
and what was yielded is on disk before the next measurement starts, so that an interruption loses
one measurement at most. A server that can't do the work is a row with a ``problem``. What the
machine lacks (wrk, java, cc) is `Missing`, which ends that suite alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from benchmarks.rows import Row


class Missing(Exception):
    """Something the benchmark needs is not on this machine; the message names the cure."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks of each suite."""

    servers: tuple[str, ...]  # names of `peers`, in the order of the first round
    quick: bool  # fewer workloads, once each
    rounds: int  # at most: a suite whose budget is spent begins no further one
    seconds: float  # of each measurement under load
    budget: float  # seconds that the suite may take, setting up peers aside


class Suite(Protocol):
    """A module of `suites/`."""

    def run(self, options: Options) -> Iterator[Row]:
        """Measure, one server at a time, every server once a round."""


def rounds(options: Options) -> Iterator[tuple[int, tuple[str, ...]]]:
    """The number of each round and its servers, whose order turns round from one to the next.

    A further round begins only if one as long as the longest so far still fits into the budget.
    """
    began = time.monotonic()
    longest = 0.0
    for number in range(1, options.rounds + 1):
        start = time.monotonic()
        if number > 1 and start - began + longest > options.budget:
            return
        yield number, options.servers if number % 2 else options.servers[::-1]
        longest = max(longest, time.monotonic() - start)
