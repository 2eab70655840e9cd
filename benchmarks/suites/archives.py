"""500 MB of random float32 weights: packed into an archive, registered, registered once more after
a restart of the server. Random numbers, since nothing can compress them.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import models
from benchmarks.peers.peer import Job
from benchmarks.peers.registry import peers
from benchmarks.peers.torchserve_like import TorchServeLike
from benchmarks.process import NotReady, request
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds
from benchmarks.suites import echo

WIDTH, LAYERS, QUICK_LAYERS = 5000, 5, 1  # 100 MB a layer
NAME = "big"


def run(options: Options) -> Iterator[Row]:
    """torchserve-py and TorchServe, which alone have archives."""
    layers = QUICK_LAYERS if options.quick else LAYERS
    size = f"{layers * 100} MB"
    model = models.linear(f"random-{layers * 100}-MB", WIDTH, layers)
    known = peers()
    for _, names in rounds(options):
        for name in names:
            peer = known[name]
            if isinstance(peer, TorchServeLike):
                yield from _Trial(peer, size, model).rows()


@dataclass(frozen=True, slots=True)
class _Trial:
    """One server, one archive."""

    peer: TorchServeLike
    size: str
    model: Path

    def rows(self) -> Iterator[Row]:
        with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            metric = "archived"
            try:
                yield self._row(metric, self._archive(folder))
                for metric in ("registered", "registered after a restart"):
                    total, load = self._register(folder)
                    yield self._row(metric, total)
                yield self._row("registered beyond the load", total - load)
            except (NotReady, OSError, subprocess.CalledProcessError) as problem:
                stderr = getattr(problem, "stderr", "") or ""
                yield failed(self._row(metric, 0.0), f"{problem}\n{stderr}")

    def _archive(self, folder: Path) -> float:
        job = Job("load", b"", "", model=self.model)
        began = time.monotonic()
        self.peer.archive(job, folder, NAME)
        return time.monotonic() - began

    def _register(self, folder: Path) -> tuple[float, float]:
        """Seconds of the request, and those in which the worker's handler loaded the model."""
        with self.peer.serving(echo.single(), folder) as server:
            began = time.monotonic()
            query = f"url={NAME}.mar&initial_workers=1&synchronous=true"
            server.manage("POST", f"/models?{query}")
            total = time.monotonic() - began
            url = server.url.rpartition("/")[0] + f"/{NAME}"
            status, load = request("POST", url, b"x", server.token)
            if status != 200:
                raise NotReady(f"the registered model answered {status}: {load.decode()[:200]}")
        return total, float(load)

    def _row(self, metric: str, seconds: float) -> Row:
        return Row(
            suite="archives",
            workload=self.size,
            server=self.peer.name,
            metric=metric,
            unit="s",
            better="less",
            samples=(seconds,),
            settings="the archiver's default format; synchronous, initial_workers=1, same model "
            "store and temporary folder after the restart",
        )
