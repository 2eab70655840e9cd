"""BentoML: an ASGI server with worker processes and adaptive batching. Second ring."""

from __future__ import annotations

from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.peers.torchserve import fair_threads

VERSION = "1.4.40"


class BentoML(Peer):
    """One service for batch 1, a batchable one for more; for images another one in front of it."""

    name = "bentoml"
    path = "/predict"
    works = ("echo", "image")

    def install(self) -> None:
        environment("bentoml", (f"bentoml=={VERSION}",))

    def version(self) -> str:
        return VERSION

    def body(self, job: Job) -> tuple[bytes, str]:
        """A list of one for the batchable echo, whose method takes nothing else."""
        if job.work == "echo" and job.batch > 1:
            return b'{"bodies":[' + job.probe + b"]}", job.content_type
        return super().body(job)

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        batch = ", batchable with an adaptive wait" if job.batch > 1 else ""
        if job.batch > 1 and job.work == "image":
            batch += ", a service for single requests in front"
        return f"{job.words()}{threads}{batch}, max_concurrency 1024"

    def variants(self, job: Job) -> tuple[Job, ...]:
        return fair_threads(job)

    def environ(self, job: Job) -> dict[str, str]:
        return {**super().environ(job), "BENTOML_DO_NOT_TRACK": "True", "PYTHONPATH": str(SERVICES)}

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        batching = "Front" if job.work == "image" else "Batching"
        service = f"bentoml_service:{'Single' if job.batch == 1 else batching}"
        line = [str(CACHE / "bentoml" / "bin" / "bentoml"), "serve", service]
        return [*line, "--host", "127.0.0.1", "--port", str(ports[0])]
