"""CPU seconds per 100,000 echo requests of this checkout against another one, in alternated pairs.

``python -m benchmarks.pairs OTHER_CHECKOUT [PAIRS]``, with the environment that `make setup`
makes: both checkouts run with its packages. CPU seconds bear a busy machine better than rates do.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from benchmarks.load.wrk import Target, measure
from benchmarks.peers.torchserve_like import MODEL
from benchmarks.peers.torchserve_py import TorchServePy
from benchmarks.process import NotReady
from benchmarks.suites.echo import single

CONNECTIONS, SECONDS = 64, 4
ROOMS = ("archiver", "frontend", "worker", "handlers")


def main(other: Path, pairs: int) -> None:
    """Print each pair, and the median of the ratios."""
    trees = {"this": Path(__file__).resolve().parents[1], "other": other.resolve()}
    ratios = []
    for number in range(pairs):
        order = ["this", "other"] if number % 2 else ["other", "this"]
        cost = {name: cpu_seconds(trees[name]) for name in order}
        ratios.append(cost["this"] / cost["other"])
        print(f"this {cost['this']:.2f}  other {cost['other']:.2f}  ratio {ratios[-1]:.3f}")
    print(f"median ratio {median(ratios):.3f}")


def cpu_seconds(tree: Path) -> float:
    """Server and worker together, per 100,000 requests, behind a warm-up of a second."""
    os.environ["PYTHONPATH"] = os.pathsep.join(str(tree / room) for room in ROOMS)
    job = single()
    with TemporaryDirectory(prefix="pairs-") as name, TorchServePy().serving(job) as server:
        body = Path(name) / "body"
        body.write_bytes(job.probe)
        target = Target(server.url, server.token, body, job.content_type)
        # Not the zygote, whose start would count.
        family = [psutil.Process(server.pid)]
        family += [one for one in family[0].children() if one.name() == f"ts:{MODEL}"]
        measure(target, CONNECTIONS, 1)
        before = sum(map(_spent, family))
        sample = measure(target, CONNECTIONS, SECONDS)
        spent = sum(map(_spent, family)) - before
        if sample.errors or len(family) != 2:
            raise NotReady(f"{sample.errors} errors, processes {family}")
        return spent / (sample.rate * SECONDS) * 100_000


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
