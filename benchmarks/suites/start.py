"""From the command to a port that takes connections, and to the first right answer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace

from benchmarks import models
from benchmarks.peers.peer import Job, Peer
from benchmarks.peers.registry import SECOND_RING, peers
from benchmarks.process import NotReady
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds
from benchmarks.suites import echo


def run(options: Options) -> Iterator[Row]:
    """With the echo and, unless quick, with ResNet-18; one worker."""
    jobs = {"echo, 1 worker": echo.single()}
    if not options.quick:
        photo = models.photo().read_bytes()
        jobs["ResNet-18, 1 worker"] = Job("image", photo, "image/jpeg", model=models.resnet18())
    known = peers()
    for number, names in rounds(options):
        for name in names:
            if number == 1 or name not in SECOND_RING:
                yield from _started(known[name], jobs)


def _started(peer: Peer, jobs: Mapping[str, Job]) -> Iterator[Row]:
    for workload, job in jobs.items():
        if job.work not in peer.works:
            continue
        row = Row("start", workload, peer.name, "", "s", "less", (), peer.settings(job))
        listening, first = (replace(row, metric=name) for name in ("listening", "first prediction"))
        try:
            with peer.serving(job) as server:
                yield replace(listening, samples=(server.listening,))
                yield replace(first, samples=(server.ready,))
        except (NotReady, OSError, subprocess.CalledProcessError) as problem:
            yield failed(listening, str(problem))
            yield failed(first, str(problem))
