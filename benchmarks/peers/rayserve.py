"""Ray Serve: a proxy and replicas on a Ray cluster of one node. Second ring."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer

VERSION = "2.60.0"


class RayServe(Peer):
    """A deployment with a replica for each worker."""

    name = "rayserve"
    works = ("echo", "image")

    def install(self) -> None:
        environment("rayserve", (f"ray[serve]=={VERSION}",))

    def version(self) -> str:
        return VERSION

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        batch = ", serve.batch" if job.batch > 1 else ""
        return f"{job.words()}{threads}{batch}, max_ongoing_requests 1024, no dashboard"

    def variants(self, job: Job) -> tuple[Job, ...]:
        """Ray's own single thread for each replica, and as many as the cores allow."""
        threads = max(1, len(os.sched_getaffinity(0)) // job.workers)
        if job.work != "image" or threads == 1:
            return (job,)
        return job, replace(job, threads=threads)

    def environ(self, job: Job) -> dict[str, str]:
        return {**super().environ(job), "RAY_USAGE_STATS_ENABLED": "0"}

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        python = CACHE / "rayserve" / "bin" / "python"
        return [str(python), str(SERVICES / "rayserve_service.py"), str(ports[0])]
