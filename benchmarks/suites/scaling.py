"""More workers of a small torch model: how long they take, and what memory they need.

Memory is PSS, which counts a page that several processes share in shares. Peers that can't scale
while they run are started anew with each number of workers, and have no time.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from benchmarks import models
from benchmarks.peers.peer import Job, Peer, Server
from benchmarks.peers.registry import peers
from benchmarks.peers.torchserve_like import MODEL
from benchmarks.process import NotReady, family, pss, request
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds

WIDTH, LAYERS = 64, 3


def run(options: Options) -> Iterator[Row]:
    """From 1 to 2, 4 and 8 workers; in a quick run to 4 alone."""
    body = json.dumps([0.5] * WIDTH).encode()
    model = models.linear("small", WIDTH, LAYERS)
    job = Job("small", body, "application/json", model=model)
    counts = (4,) if options.quick else (2, 4, 8)
    known = peers()
    for number, names in rounds(options):
        for name in names:
            peer = known[name]
            if "small" not in peer.works:
                continue
            if not peer.management and (options.quick or number > 1):
                continue  # many starts, on which no promise hangs
            measure = _scaled if peer.management else _started
            yield from measure(peer, job, counts if number == 1 else (4,))


def _scaled(peer: Peer, job: Job, counts: tuple[int, ...]) -> Iterator[Row]:
    """By the management API, each time from one worker."""
    left = list(counts)
    try:
        with peer.serving(job) as server:
            while left:
                alone = _used(server, job, 1)
                began = time.monotonic()
                _workers(server, left[0])
                spent = time.monotonic() - began
                together = _used(server, job, left[0])
                yield replace(_row(peer, job, left[0], "time", "s"), samples=(spent,))
                yield from _memory(peer, job, left[0], alone, together)
                own = _row(peer, job, left[0], "memory of the server process", "MB")
                yield replace(own, samples=(pss(peer.server_process(server)),))
                _workers(server, 1)
                left.pop(0)
    except (NotReady, OSError, subprocess.CalledProcessError) as problem:
        for count in left:
            yield failed(_row(peer, job, count, "time", "s"), str(problem))


def _started(peer: Peer, job: Job, counts: tuple[int, ...]) -> Iterator[Row]:
    """A server for each number of workers."""
    alone: float | None = None
    for count in (1, *counts):
        many = replace(job, workers=count)
        try:
            with peer.serving(many) as server:
                together = _used(server, many, count)
        except (NotReady, OSError, subprocess.CalledProcessError) as problem:
            yield failed(_row(peer, many, count, "memory in all", "MB"), str(problem))
            continue
        if alone is None:
            alone = together
        else:
            yield from _memory(peer, many, count, alone, together)


def _memory(peer: Peer, job: Job, count: int, alone: float, together: float) -> Iterator[Row]:
    yield replace(_row(peer, job, count, "memory in all", "MB"), samples=(together,))
    extra = _row(peer, job, count, "memory per extra worker", "MB")
    yield replace(extra, samples=((together - alone) / (count - 1),))


def _row(peer: Peer, job: Job, count: int, metric: str, unit: str) -> Row:
    settings = peer.settings(job)
    return Row("scaling", f"1 to {count} workers", peer.name, metric, unit, "less", (), settings)


def _workers(server: Server, count: int) -> None:
    server.manage("PUT", f"/models/{MODEL}?min_worker={count}&max_worker={count}&synchronous=true")


def _used(server: Server, job: Job, count: int) -> float:
    """MB of the whole process tree, once every worker is likely to have answered something."""

    def ask(_: int) -> int | None:
        return request("POST", server.url, job.probe, server.token, job.content_type)[0]

    with ThreadPoolExecutor(count) as pool:
        if any(status != 200 for status in pool.map(ask, range(8 * count))):
            raise NotReady("a prediction failed")
    return sum(pss(member.pid) for member in family(server.pid))
