"""TorchServe 0.12.0, the reference of most ratios."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from benchmarks.environments import CACHE, environment, require
from benchmarks.peers.peer import Job, Server
from benchmarks.peers.torchserve_like import TorchServeLike
from benchmarks.process import family

# torchserve 0.12 declares neither yaml nor captum, but does not serve an image without.
PACKAGES = ("torchserve==0.12.0", "torch-model-archiver==0.12.0", "pyyaml", "captum")


class TorchServe(TorchServeLike):
    """The Java server with its Python workers."""

    name = "torchserve"
    warm_up = 5.0  # its JIT compiler is still at work after two

    def install(self) -> None:
        require("java", "apt-get install -y openjdk-17-jre-headless")
        environment("torchserve", PACKAGES)

    def version(self) -> str:
        return "0.12.0"

    def scripts(self) -> tuple[Path, Path]:
        folder = CACHE / "torchserve" / "bin"
        return folder / "torch-model-archiver", folder / "torchserve"

    def server_process(self, server: Server) -> int:
        """Not the launcher in Python, but the Java process that it starts."""
        return next((one.pid for one in family(server.pid) if one.name() == "java"), server.pid)

    def variants(self, job: Job) -> tuple[Job, ...]:
        return fair_threads(job)


def fair_threads(job: Job) -> tuple[Job, ...]:
    """The server's own number of torch threads, the cores shared among the workers, and one.

    Where threads of torch outnumber free cores they wait for each other, which can cost most of the
    speed; which number is best depends on what else the server runs.
    """
    if job.work != "image":
        return (job,)
    cores = len(os.sched_getaffinity(0))
    numbers = {cores // job.workers, 1} - {0, cores}
    return job, *(replace(job, threads=number) for number in sorted(numbers, reverse=True))
