"""Images over HTTP: a JPEG of about 110 kB in, the five best classes out; suites name the model.

Every server resizes to 256, crops to 224 and normalises with the same libraries. Beside them the
bare loop: the same model in one process, in a loop, with no server around it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks import models
from benchmarks.closed import Workload, measured
from benchmarks.environments import shared_python
from benchmarks.peers.peer import SERVICES, Job
from benchmarks.process import clean_environ
from benchmarks.rows import Row, failed
from benchmarks.suite import Options

LOOP = "torch loop (bare)"
CONNECTIONS = (1, 8)
DELAY_MS = 10


def classified(suite: str, model: Path, options: Options) -> Iterator[Row]:
    """Batch 1 and 8, with 1 and 2 workers; in a quick run batch 8 with 1 worker alone."""
    shapes = [(8, 1)] if options.quick else [(8, 1), (8, 2), (1, 1), (1, 2)]
    body = models.photo().read_bytes()
    workloads = [
        Workload(
            f"batch {batch}, {workers} worker{'s' if workers > 1 else ''}",
            Job("image", body, "image/jpeg", batch, DELAY_MS, workers, model=model),
            CONNECTIONS[1:] if options.quick else CONNECTIONS,
            once=batch == 1,
            second_ring=(batch, workers) == (8, 1),
        )
        for batch, workers in shapes
    ]
    python = shared_python()

    def limit(workload: Workload) -> Iterator[Row]:
        if workload.job.workers == 1:
            yield from _loop(suite, workload, python, options.seconds)

    yield from measured(suite, workloads, options, limit)


def _loop(suite: str, workload: Workload, python: Path, seconds: float) -> Iterator[Row]:
    """One run of the loop; it has no connections, and so is the limit for every number of them."""
    line = [str(python), str(SERVICES / "torch_loop.py"), str(workload.job.model)]
    line += [str(models.photo()), str(workload.job.batch), str(seconds)]
    done = subprocess.run(line, env=clean_environ(), capture_output=True, text=True, check=False)
    for load in workload.connections:
        row = Row(
            suite=suite,
            workload=workload.name,
            server=LOOP,
            metric="throughput",
            unit="requests/s",
            better="more",
            samples=(),
            settings=f"no server, batch {workload.job.batch}",
            load=load,
        )
        if done.returncode:
            yield failed(row, done.stderr)
            continue
        seen = json.loads(done.stdout)
        settings = f"{row.settings}, {seen['threads']} torch threads by default"
        yield replace(row, samples=(seen["rate"],), settings=settings)
