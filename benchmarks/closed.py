"""Measures workloads of a closed loop on every server, in turns; suites say which.

Used by the suites echo, bodies and images.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.load import wrk
from benchmarks.peers.peer import Job, Peer, Server
from benchmarks.peers.registry import SECOND_RING, peers
from benchmarks.process import NotReady, cpu_seconds
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds

PATIENCE = 5  # times as long, where a measurement saw no answer: slow rather than dead, perhaps
QUICK_WARM_UP = 3.0  # seconds, at most


@dataclass(frozen=True, slots=True)
class Workload:
    """A job and how many connections ask for it, one number after the other."""

    name: str
    job: Job
    connections: tuple[int, ...]
    once: bool = False  # in the first round alone: no promise hangs on it
    second_ring: bool = True  # measured there, too


def measured(
    suite: str,
    workloads: Sequence[Workload],
    options: Options,
    limit: Callable[[Workload], Iterator[Row]] | None = None,
) -> Iterator[Row]:
    """A row for each workload, server and number of connections, once a round.

    ``limit`` measures what is no server beside them, once a round, too.
    """
    wrk.check()
    known = peers()
    best: dict[tuple[str, int], int] = {}  # variant of each server, by its workers
    broken: set[tuple[str, str]] = set()
    with TemporaryDirectory(prefix="bench-body-") as scratch:
        for number, names in rounds(options):
            for workload in workloads:
                if workload.once and number > 1:
                    continue
                for name in names:
                    peer, key = known[name], (name, workload.name)
                    if key in broken or _left_out(peer, workload, number):
                        continue
                    run = _Run(suite, workload, peer, options, Path(scratch))
                    variants = peer.variants(workload.job)
                    tried = name, workload.job.workers
                    if tried not in best:
                        one = options.quick or len(variants) == 1
                        best[tried] = 0 if one else run.best(variants)
                    for row in run.rows(variants[best[tried]]):
                        if row.problem:
                            broken.add(key)
                        yield row
                if limit is not None:
                    yield from limit(workload)


def _left_out(peer: Peer, workload: Workload, number: int) -> bool:
    """What a peer can't do; and the second ring is measured once, to leave time for the first."""
    if workload.job.work not in peer.works:
        return True
    return peer.name in SECOND_RING and (number > 1 or not workload.second_ring)


@dataclass(frozen=True, slots=True)
class _Run:
    """One workload on one peer."""

    suite: str
    workload: Workload
    peer: Peer
    options: Options
    scratch: Path

    def rows(self, job: Job) -> Iterator[Row]:
        row = Row(
            suite=self.suite,
            workload=self.workload.name,
            server=self.peer.name,
            metric="throughput",
            unit="requests/s",
            better="more",
            samples=(),
            settings=self._settings(job),
        )
        left = list(self.workload.connections)
        try:
            with self.peer.serving(job) as server:
                target = self._target(server, job)
                wrk.measure(target, max(left), self._warm_up())
                while left:
                    yield self._measured(replace(row, load=left[0]), server, target)
                    left.pop(0)
        except (NotReady, RuntimeError, OSError, subprocess.CalledProcessError) as problem:
            stderr = getattr(problem, "stderr", "") or ""
            for load in left:
                yield failed(replace(row, load=load), f"{problem}\n{stderr}")

    def _warm_up(self) -> float:
        return min(self.peer.warm_up, QUICK_WARM_UP) if self.options.quick else self.peer.warm_up

    def _settings(self, job: Job) -> str:
        tried = len(self.peer.variants(self.workload.job))
        untried = self.options.quick or tried == 1
        best = "" if untried else f", the best of {tried} set-ups"
        return f"{self.peer.settings(job)}{best}"

    def best(self, variants: Sequence[Job]) -> int:
        """Which variant answers most with the most connections; the first where none answers."""
        rates: list[float] = []
        for job in variants:
            try:
                with self.peer.serving(job) as server:
                    target, connections = self._target(server, job), max(self.workload.connections)
                    wrk.measure(target, connections, 1)
                    rates.append(wrk.measure(target, connections, self.options.seconds).rate)
            except (NotReady, RuntimeError, OSError, subprocess.CalledProcessError):
                rates.append(0.0)
        return rates.index(max(rates))

    def _measured(self, row: Row, server: Server, target: wrk.Target) -> Row:
        assert row.load is not None
        for seconds in (self.options.seconds, self.options.seconds * PATIENCE):
            before = cpu_seconds(server.pid)
            sample = wrk.measure(target, int(row.load), seconds)
            spent = cpu_seconds(server.pid) - before
            if sample.rate:
                cost = {"server cpu ms/request": (spent / sample.rate / sample.seconds * 1000,)}
                return replace(row, samples=(sample.rate,), figures={**sample.figures(), **cost})
        raise RuntimeError(f"no answer within {seconds:.0f} s")

    def _target(self, server: Server, job: Job) -> wrk.Target:
        path = self.scratch / "body"
        body, content_type = self.peer.body(job)
        path.write_bytes(body)
        return wrk.Target(server.url, server.token, path, content_type)
