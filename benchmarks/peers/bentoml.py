"""BentoML: an ASGI server with worker processes and adaptive batching. Second ring."""

from __future__ import annotations

from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.peers.torchserve import fair_threads

VERSION = "1.4.40"


class BentoML(Peer):
    """A service for batch 1, else one in front of a batching one."""

    name = "bentoml"
    path = "/predict"
    works = ("echo", "image")

    def install(self) -> None:
        environment("bentoml", (f"bentoml=={VERSION}",))

    def version(self) -> str:
        return VERSION

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        batch = ", a batchable service whose wait is adaptive behind one" if job.batch > 1 else ""
        return f"{job.words()}{threads}{batch}, max_concurrency 1024"

    def variants(self, job: Job) -> tuple[Job, ...]:
        return fair_threads(job)

    def environ(self, job: Job) -> dict[str, str]:
        return {**super().environ(job), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(SERVICES)}

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        service = f"bentoml_service:{'Single' if job.batch == 1 else 'Front'}"
        line = [str(CACHE / "bentoml" / "bin" / "bentoml"), "serve", service]
        return [*line, "--host", "127.0.0.1", "--port", str(ports[0])]
