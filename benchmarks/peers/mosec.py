"""mosec: a Rust front with Python workers, the fastest peer of this shape."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.peers.torchserve import fair_threads

VERSION = "0.9.8"


class Mosec(Peer):
    """One worker class, or two for images (preprocess, infer), as its documentation advises."""

    name = "mosec"
    path = "/inference"

    def install(self) -> None:
        environment("mosec", (f"mosec=={VERSION}",))

    def version(self) -> str:
        return VERSION

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        batch = f"max_batch_size={job.batch}, max_wait_time={job.delay_ms}" if job.batch > 1 else ""
        stages = f"{job.processes} Preprocess workers before the model's" if job.processes else ""
        parts = [f"{job.words()}{threads}", batch, stages, "defaults else"]
        return ", ".join(part for part in parts if part)

    def variants(self, job: Job) -> tuple[Job, ...]:
        threads = fair_threads(job)
        if job.work != "image":
            return threads
        return *(replace(one, processes=_cores()) for one in threads), *threads

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        python = CACHE / "mosec" / "bin" / "python"
        line = [str(python), str(SERVICES / "mosec_service.py")]
        line += ["--address", "127.0.0.1", "--port", str(ports[0])]
        if job.body_limit is not None:
            line += ["--max-request-size", str(job.body_limit)]
        return line


def _cores() -> int:
    return len(os.sched_getaffinity(0))
