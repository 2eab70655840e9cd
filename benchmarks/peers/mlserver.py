"""MLServer: the V2 protocol in front of a pool of processes. Second ring."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from benchmarks.environments import CACHE, environment
from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.peers.torchserve import fair_threads

VERSION = "1.7.1"
# Its workers ask for an event loop in a way that later versions of uvloop refuse.
PACKAGES = (f"mlserver=={VERSION}", "uvloop==0.21.0")


class MLServer(Peer):
    """A runtime of ours; a body is wrapped as the V2 protocol wants it."""

    name = "mlserver"
    path = "/v2/models/m/infer"
    works = ("echo", "image")

    def install(self) -> None:
        environment("mlserver", PACKAGES)

    def version(self) -> str:
        return VERSION

    def body(self, job: Job) -> tuple[bytes, str]:
        """One BYTES input: the text as it is, an image in base64."""
        image = job.work == "image"
        data = base64.b64encode(job.probe).decode() if image else job.probe.decode()
        tensor = {"name": "body", "shape": [1, 1], "datatype": "BYTES", "data": [data]}
        parameters = {"parameters": {"content_type": "base64" if image else "str"}}
        return json.dumps({"inputs": [{**tensor, **parameters}]}).encode(), "application/json"

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        batch = ", adaptive batching" if job.batch > 1 else ""
        return f"{job.words()}{threads}{batch}, body wrapped in V2 JSON, parallel_workers as asked"

    def variants(self, job: Job) -> tuple[Job, ...]:
        return fair_threads(job)

    def environ(self, job: Job) -> dict[str, str]:
        return {**super().environ(job), "PYTHONPATH": str(SERVICES)}

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        job.write(folder)
        ours = {"http_port": ports[0], "grpc_port": ports[1], "metrics_port": ports[2]}
        settings = {**ours, "host": "127.0.0.1", "parallel_workers": job.workers, "debug": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        runtime = "Echo" if job.work == "echo" else "Classify"
        model: dict[str, str | float] = {
            "name": "m",
            "implementation": f"mlserver_runtime.{runtime}",
        }
        if job.batch > 1:
            model |= {"max_batch_size": job.batch, "max_batch_time": job.delay_ms / 1000}
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(CACHE / "mlserver" / "bin" / "mlserver"), "start", str(folder)]
