"""Goodput under a latency target, in an open loop: Poisson arrivals at shares of the capacity, and
a handler whose batch of n takes a + b * n milliseconds. One server at a time.

Contestants are our own batch policies, each in a model of its own on one server, and TorchServe
with its best `maxBatchDelay`. A fixed delay is the one that did best over all loads of a round, a
window is the best at each load: what an operator could tune at most, who knew the load.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.environments import require
from benchmarks.load.openloop import COMPILER_CURE, Load, LoadFailed, Outcome, binary, drive
from benchmarks.peers.peer import SERVICES, Job
from benchmarks.peers.registry import peers
from benchmarks.peers.torchserve_like import QUEUE, TorchServeLike
from benchmarks.process import NotReady, clean_environ
from benchmarks.rows import Row, failed
from benchmarks.suite import Options, rounds

OURS, THEIRS = "torchserve-py", "torchserve"
EAGER, FIXED, WINDOW = f"{OURS}, eager", f"{OURS}, fixed delay", f"{OURS}, tuned window"
METRIC = "goodput"
LOADS = (30, 70, 95, 300)  # % of the capacity
DELAYS = (2, 5, 10)  # ms
BATCH = 32
TARGET = 50  # ms
WARM_UP = 0.5  # seconds
GRACE = 1.0  # seconds: who has no answer then has long been late
CONNECTIONS = 1024


@dataclass(frozen=True, slots=True)
class Workload:
    """What a batch costs, in milliseconds, and what the name says of it."""

    name: str
    a: float
    b: float
    workers: int

    @property
    def nominal(self) -> float:
        """Requests/s with full batches."""
        return self.workers * BATCH / (self.a + self.b * BATCH) * 1000


# The second one is the hard case: two full batches in a row do not fit into the target.
EASY = Workload("4 + 0.5 n ms, target 50 ms", 4, 0.5, 1)
HARD = Workload("20 + 0.5 n ms, target 50 ms", 20, 0.5, 2)


def run(options: Options) -> Iterator[Row]:
    """Each workload on ours, and the easy one on TorchServe."""
    require("cc", COMPILER_CURE)
    binary()
    for number, names in rounds(options):
        for workload in (EASY,) if options.quick else (EASY, HARD):
            capacity = 0.0
            # Ours first: its capacity is what the shares are of.
            for name in (one for one in (OURS, THEIRS) if one in names):
                if name == OURS:
                    for row in _ours(workload, options, number):
                        capacity = capacity or (row.figure("capacity") or 0.0)
                        yield row
                elif workload is EASY and capacity and not options.quick:
                    yield from _theirs(workload, options, number, capacity)


def _ours(workload: Workload, options: Options, number: int) -> Iterator[Row]:
    models: dict[str, Mapping[str, object]] = {"eager": {}, "target": {"maxLatencyMs": TARGET}}
    models |= {f"wait{ms}": {"batchPolicy": "delay", "maxBatchDelay": ms} for ms in DELAYS}
    row = _row(workload, OURS)
    try:
        with _Site(OURS, workload, models) as site:
            capacity = site.capacity("eager", number)
            row = replace(row, figures={"capacity": (capacity,)})
            waits: dict[int, dict[int, Outcome]] = {ms: {} for ms in DELAYS}
            for load in LOADS:
                names = list(models)
                for name in names if number % 2 else names[::-1]:
                    outcome = site.offer(name, capacity * load / 100, options.seconds, number)
                    if name.startswith("wait"):
                        waits[int(name[4:])][load] = outcome
                    elif name == "target":
                        yield _seen(row, load, outcome, f"maxLatencyMs {TARGET}")
                    else:
                        eager = replace(row, server=EAGER)
                        yield _seen(eager, load, outcome, "batchPolicy eager")
            yield from _tuned(row, FIXED, waits, fixed=True)
            yield from _tuned(row, WINDOW, waits, fixed=False)
    except (NotReady, LoadFailed, OSError, subprocess.CalledProcessError) as problem:
        yield failed(row, f"{problem}\n{getattr(problem, 'stderr', '') or ''}")


def _theirs(workload: Workload, options: Options, number: int, capacity: float) -> Iterator[Row]:
    row = replace(_row(workload, THEIRS), figures={"capacity": (capacity,)})
    models = {f"wait{ms}": {"maxBatchDelay": ms} for ms in DELAYS}
    try:
        with _Site(THEIRS, workload, models) as site:
            waits = {
                ms: {
                    load: site.offer(f"wait{ms}", capacity * load / 100, options.seconds, number)
                    for load in LOADS
                }
                for ms in DELAYS
            }
            yield from _tuned(row, THEIRS, waits, fixed=False)
    except (NotReady, LoadFailed, OSError, subprocess.CalledProcessError) as problem:
        yield failed(row, f"{problem}\n{getattr(problem, 'stderr', '') or ''}")


def _tuned(
    row: Row, server: str, waits: Mapping[int, Mapping[int, Outcome]], *, fixed: bool
) -> Iterator[Row]:
    """The rows of the best delay: the same at all loads, or at each its own."""
    whole = max(waits, key=lambda ms: sum(one.goodput / load for load, one in waits[ms].items()))
    for load in LOADS:
        best = whole if fixed else max(waits, key=lambda ms: waits[ms][load].goodput)
        policy = f"batchPolicy delay, maxBatchDelay {best}"
        yield _seen(replace(row, server=server), load, waits[best][load], policy)


def _row(workload: Workload, server: str) -> Row:
    workers = "1 worker" if workload.workers == 1 else f"{workload.workers} workers"
    return Row(
        suite="openloop",
        workload=workload.name,
        server=server,
        metric=METRIC,
        unit=f"requests/s within {TARGET} ms",
        better="more",
        samples=(),
        settings=f"{workers}, batch {BATCH}, job_queue_size {QUEUE}",
        load_unit="% of capacity",
    )


def _seen(row: Row, load: int, outcome: Outcome, policy: str) -> Row:
    """With what was measured. "errors" are answers that are neither 200 nor a refusal, or that
    did not come at all in another second."""
    wrong = outcome.sent - outcome.ok - outcome.statuses.get(503, 0)
    figures = {
        **row.figures,
        "offered": (outcome.sent,),
        "answered %": (100 * outcome.share,),
        "p50 ms": (outcome.latency.get("p50", 0.0),),
        "p99 ms": (outcome.latency.get("p99", 0.0),),
        "errors": (float(wrong),),
        "client cpu": (outcome.client_cpu,),
        "client late p99 ms": (outcome.client_late.get("p99", 0.0),),
    }
    settings = f"{row.settings}, {policy}"
    return replace(row, load=load, samples=(outcome.goodput,), figures=figures, settings=settings)


class _Site:
    """A server with the handler of a workload in several models. To be entered."""

    def __init__(
        self, name: str, workload: Workload, models: Mapping[str, Mapping[str, object]]
    ) -> None:
        peer = peers()[name]
        assert isinstance(peer, TorchServeLike)
        self._peer = peer
        self._workload = workload
        self._models = models
        self._job = Job("echo", b"{}", "application/json")
        self._serving = peer.serving(self._job)

    def __enter__(self) -> _Site:
        self._server = self._serving.__enter__()
        try:
            self._body = self._server.folder / "body"
            self._body.write_bytes(b"{}")
            for name, settings in self._models.items():
                self._archive(self._server.folder, name, settings)
                self._server.manage(
                    "POST",
                    f"/models?url={name}.mar&synchronous=true"
                    f"&initial_workers={self._workload.workers}",
                )
                drive(replace(self._load(name), rate=50, seconds=1))  # lazy imports, and the JIT
        except BaseException as problem:
            self._serving.__exit__(type(problem), problem, problem.__traceback__)
            raise
        return self

    def __exit__(self, *problem: object) -> None:
        self._serving.__exit__(*problem)  # type: ignore[arg-type]

    def capacity(self, name: str, seed: int) -> float:
        """Answers/s with the queue never empty: a closed loop of three batches a worker."""
        load = replace(self._load(name), rate=self._workload.nominal * 1.2, seed=seed)
        return drive(replace(load, connections=3 * BATCH * self._workload.workers)).throughput

    def offer(self, name: str, rate: float, seconds: float, seed: int) -> Outcome:
        """Poisson arrivals, so many a second."""
        return drive(replace(self._load(name), rate=rate, seconds=seconds, seed=seed))

    def _load(self, name: str) -> Load:
        server = self._server
        url = server.url.rpartition("/")[0] + f"/{name}"
        return Load(
            url,
            1.0,
            3.0,
            TARGET,
            warmup=WARM_UP,
            grace=GRACE,
            connections=CONNECTIONS,
            token=server.token,
            body=self._body,
        )

    def _archive(self, folder: Path, name: str, settings: Mapping[str, object]) -> None:
        config = folder / f"{name}.yaml"  # JSON is yaml
        count = self._workload.workers
        values = {"minWorkers": count, "maxWorkers": count, "batchSize": BATCH, **settings}
        cost = {"a": self._workload.a, "b": self._workload.b}
        config.write_text(json.dumps({**values, "handler": cost}))
        pack: Sequence[str] = [
            *(str(self._peer.scripts()[0]), "--model-name", name, "--version", "1.0"),
            *("--handler", str(SERVICES / "timed_handler.py"), "--config-file", str(config)),
            *("--export-path", str(folder / "model_store")),
        ]
        environ = {**clean_environ(), **self._peer.environ(self._job)}
        subprocess.run(pack, env=environ, check=True, capture_output=True, text=True)
