"""CPU seconds per 100,000 echo requests of this checkout against another one, in alternated pairs.

``python benchmarks/echo/pairs.py OTHER_CHECKOUT [PAIRS]``, with the environment that `make setup`
makes: both checkouts run with its packages. CPU seconds bear a busy machine better than rates do.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil
from load import measure
from process import NotReady, free_ports, post, running, tail
from servers import PROBE, Target, inference_key, ours

CONNECTIONS, SECONDS = 64, 4
ROOMS = ("archiver", "frontend", "worker", "handlers")


def main(other: Path, pairs: int) -> None:
    """Print each pair, and the median of the ratios."""
    trees = {"this": Path(__file__).resolve().parents[2], "other": other.resolve()}
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
    server = ours()
    with TemporaryDirectory(prefix="pairs-") as name:
        folder, ports = Path(name), free_ports(5)
        with running(server.command(folder, ports), folder) as process:
            target = _ready(f"http://127.0.0.1:{ports[0]}{server.path}", folder)
            family = [psutil.Process(process.pid)]
            family += [one for one in family[0].children() if one.name() == "ts:echo"]
            measure(target, CONNECTIONS, 1)
            before = sum(map(_spent, family))
            sample = measure(target, CONNECTIONS, SECONDS)
            spent = sum(map(_spent, family)) - before
            if sample.errors or len(family) != 2:
                raise NotReady(f"{sample.errors} errors, processes {family}")
            return spent / (sample.rate * SECONDS) * 100_000


def _ready(url: str, folder: Path) -> Target:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        token = inference_key(folder)
        if token and post(url, PROBE, token) == PROBE:
            return Target(url, token)
        time.sleep(0.1)
    raise NotReady(tail(folder))


def _spent(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 10)
