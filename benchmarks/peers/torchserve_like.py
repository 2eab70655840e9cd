"""What torchserve-py and TorchServe have in common: the same archive, the same settings, the same
commands. `torchserve_py` and `torchserve` say whose commands they are.
"""

from __future__ import annotations

import json
import subprocess
from abc import abstractmethod
from pathlib import Path

from benchmarks.peers.peer import SERVICES, Job, Peer
from benchmarks.process import clean_environ

# As many as mosec lets wait by default: 256 connections do not fit into the default of 100.
QUEUE = 1024
MODEL = "m"


class TorchServeLike(Peer):
    """Archive the job's handler and serve it, with the default logs, metrics and tokens."""

    path = f"/predictions/{MODEL}"
    tokens = True
    management = True

    @abstractmethod
    def scripts(self) -> tuple[Path, Path]:
        """The archiver's command and the server's."""

    def settings(self, job: Job) -> str:
        threads = "" if job.threads is None else f", OMP_NUM_THREADS={job.threads}"
        handler = "built-in image_classifier" if job.work == "image" else "handler"
        return (
            f"{job.words()}{threads}, {handler}, job_queue_size {QUEUE}, "
            "default logs, metrics and tokens"
        )

    def archive(self, job: Job, folder: Path, name: str = MODEL) -> None:
        """Write ``name``.mar into ``folder``/model_store."""
        store = folder / "model_store"
        store.mkdir(exist_ok=True)
        config = folder / f"{name}.yaml"  # JSON is yaml
        values = {"minWorkers": job.workers, "maxWorkers": job.workers, "batchSize": job.batch}
        config.write_text(json.dumps({**values, "maxBatchDelay": max(1, job.delay_ms)}))
        pack = [str(self.scripts()[0]), "--model-name", name, "--version", "1.0", "--force"]
        pack += ["--handler", self._handler(job), "--export-path", str(store)]
        pack += ["--config-file", str(config)]
        if job.model is not None:
            pack += ["--model-file", str(job.model / "model.py")]
            pack += ["--serialized-file", str(job.model / "weights.pth")]
        environ = {**clean_environ(), **self.environ(job)}
        subprocess.run(pack, env=environ, check=True, capture_output=True, text=True)

    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        if not (folder / "model_store" / f"{MODEL}.mar").exists():
            self.archive(job, folder)
        config = folder / "config.properties"
        limit = "" if job.body_limit is None else f"max_request_size={job.body_limit}\n"
        config.write_text(
            f"inference_address=http://127.0.0.1:{ports[0]}\n"
            f"management_address=http://127.0.0.1:{ports[1]}\n"
            f"metrics_address=http://127.0.0.1:{ports[2]}\n"
            f"grpc_inference_port={ports[3]}\n"
            f"grpc_management_port={ports[4]}\n"
            f"job_queue_size={QUEUE}\n{limit}"
        )
        start = [str(self.scripts()[1]), "--start", "--foreground", "--ncs", "--enable-model-api"]
        start += ["--ts-config", str(config), "--model-store", str(folder / "model_store")]
        return [*start, "--models", f"{MODEL}={MODEL}.mar"]

    def _handler(self, job: Job) -> str:
        if job.work == "image":
            return "image_classifier"
        return str(SERVICES / f"{job.work}_handler.py")
