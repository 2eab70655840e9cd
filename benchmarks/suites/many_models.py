"""Many models of one server, each with a worker: registered one after another, and all at once."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.peers.peer import Server
from benchmarks.peers.registry import peers
from benchmarks.peers.torchserve_like import MODEL, TorchServeLike
from benchmarks.process import NotReady
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds
from benchmarks.suites import echo

MODELS, QUICK_MODELS = 50, 8
ROUNDS = 1  # a round takes minutes, and its figures are sums of many
WORKER_MB = 300  # that a worker of TorchServe takes


def run(options: Options) -> Iterator[Row]:
    """50 models (8 in a quick run), or fewer where memory would not hold TorchServe's workers."""
    free = int(psutil.virtual_memory().available / 1e6 * 0.8 / WORKER_MB)
    count = min(QUICK_MODELS if options.quick else MODELS, max(2, free))
    known = peers()
    for number, names in rounds(options):
        if number > ROUNDS:
            return
        for name in names:
            peer = known[name]
            if isinstance(peer, TorchServeLike):
                yield from _registered(peer, count)


def _registered(peer: TorchServeLike, count: int) -> Iterator[Row]:
    ways: dict[str, Callable[[Server, int], None]] = {
        "one after another": _in_turn,
        "all at once": _together,
    }
    for metric, register in ways.items():
        row = Row(
            suite="many_models",
            workload=f"{count} models with a worker each",
            server=peer.name,
            metric=metric,
            unit="s",
            better="less",
            samples=(),
            settings="echo handler, synchronous, initial_workers=1",
        )
        try:
            yield replace(row, samples=(_seconds(peer, count, register),))
        except (NotReady, OSError, subprocess.CalledProcessError) as problem:
            yield failed(row, str(problem))


def _seconds(peer: TorchServeLike, count: int, register: Callable[[Server, int], None]) -> float:
    job = echo.single()
    with TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        peer.archive(job, folder)
        store = folder / "model_store"
        for number in range(count):
            shutil.copyfile(store / f"{MODEL}.mar", store / f"{MODEL}{number}.mar")
        with peer.serving(job, folder) as server:
            began = time.monotonic()
            register(server, count)
            return time.monotonic() - began


def _in_turn(server: Server, count: int) -> None:
    for number in range(count):
        _register(server, number)


def _together(server: Server, count: int) -> None:
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(lambda number: _register(server, number), range(count)))


def _register(server: Server, number: int) -> None:
    name = f"{MODEL}{number}"
    query = f"url={name}.mar&model_name={name}&initial_workers=1&synchronous=true"
    server.manage("POST", f"/models?{query}", timeout=900)
