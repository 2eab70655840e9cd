"""torchserve-py itself, from the environment that runs the benchmark."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from benchmarks.environments import our_bin, our_environ
from benchmarks.peers.peer import Job
from benchmarks.peers.torchserve_like import TorchServeLike


class TorchServePy(TorchServeLike):
    """Ours."""

    name = "torchserve-py"

    def install(self) -> None:
        our_bin()

    def version(self) -> str:
        return version("torchserve-py")

    def scripts(self) -> tuple[Path, Path]:
        return our_bin() / "archiver", our_bin() / "torchserve-py"

    def environ(self, job: Job) -> dict[str, str]:
        return {**super().environ(job), **our_environ()}

    def settings(self, job: Job) -> str:
        return f"{super().settings(job)}, torch threads by default (cores / workers)"
