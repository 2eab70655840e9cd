"""LitServe: FastAPI in front of worker processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.peers.torchserve import fair_threads

VERSION = "0.2.19"


class LitServe(Peer):
    """With the queue over ZeroMQ that its documentation advises for throughput."""

    name = "litserve"
    path = "/predict"

    def install(self) -> None:
        environment("litserve", (f"litserve=={VERSION}",))

    def version(self) -> str:
        return VERSION

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        servers = job.processes or "default"
        return f"{job.words()}{threads}, fast_queue=True, num_api_servers {servers}"

    def variants(self, job: Job) -> tuple[Job, ...]:
        """The default, one HTTP process a worker, and one a core."""
        cores = len(os.sched_getaffinity(0))
        more = (replace(job, processes=cores),) if job.workers < cores else ()
        return *fair_threads(job), *more

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        python = CACHE / "litserve" / "bin" / "python"
        return [str(python), str(SERVICES / "litserve_service.py"), str(ports[0])]
