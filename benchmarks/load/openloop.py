"""Runs `openloop.c`, which it compiles once: Poisson arrivals at a fixed rate, whatever the server
does, with latencies from when each request was due.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.suite import Missing

SOURCE = Path(__file__).with_suffix(".c")
BUILD = Path(__file__).resolve().parents[2] / ".bench"
_GRACE = 60.0  # seconds beyond the load itself after which the client is broken
COMPILER_CURE = "a C compiler is needed for the open-loop load: apt-get install -y gcc libc6-dev"


class LoadFailed(Exception):
    """The load could not be driven, or an answer was none; the message is the client's."""


@dataclass(frozen=True, slots=True)
class Load:
    """One open loop. ``target`` is in milliseconds; only answers within it count as goodput."""

    url: str
    rate: float  # requests/s
    seconds: float
    target: float
    warmup: float = 1.0  # seconds before those that count
    grace: float = 10.0  # seconds that answers may take after the last request was due
    connections: int = 512  # at most; a request beyond them waits, and that counts as latency
    seed: int = 1
    token: str | None = None
    body: Path | None = None
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it, of requests that were due after the warm-up. Times are in milliseconds.

    ``latency`` is of answers with a status of 2xx, by ``p50``, ``p90``, ``p95``, ``p99``,
    ``p99.9`` and ``max``; ``client_late`` says how long after its time each request was picked up.
    """

    sent: int
    ok: int
    goodput: float  # answers of 2xx within the target, a second
    throughput: float  # answers of 2xx a second, in time or not, of those that came meanwhile
    statuses: Mapping[int, int]
    lost: int  # without any answer
    waited: int  # for a connection
    latency: Mapping[str, float]
    client_late: Mapping[str, float]
    client_cpu: float  # cores

    @property
    def share(self) -> float:
        """Answers of 2xx among all that was sent."""
        return self.ok / self.sent if self.sent else 0.0


def binary() -> Path:
    """The compiled client, made where this source has none yet.

    Raises:
        Missing: there is no C compiler, or it failed.
    """
    source = SOURCE.read_bytes()
    target = BUILD / f"openloop-{hashlib.sha256(source).hexdigest()[:12]}"
    if target.exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise Missing(COMPILER_CURE)
    BUILD.mkdir(exist_ok=True)
    made = target.with_name(f"{target.name}.{os.getpid()}")
    command = [compiler, "-O2", "-Wall", "-o", str(made), str(SOURCE), "-lm"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise Missing(f"{compiler} cannot compile {SOURCE.name}: {result.stderr.strip()[-300:]}")
    made.replace(target)
    return target


def drive(load: Load) -> Outcome:
    """Send it all and wait for the answers, at most ``load.grace`` after the last was due.

    Raises:
        LoadFailed: see there.
        Missing: as `binary`.
    """
    limit = load.warmup + load.seconds + load.grace + _GRACE
    try:
        result = subprocess.run(
            _command(load), capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"openloop did not end within {limit:g} s") from None
    if result.returncode:
        raise LoadFailed(result.stderr.strip() or f"openloop ended with {result.returncode}")
    return _outcome(json.loads(result.stdout))


def _command(load: Load) -> list[str]:
    place = urlsplit(load.url)
    options: dict[str, object] = {
        "host": place.hostname,
        "port": place.port or 80,
        "path": place.path + (f"?{place.query}" if place.query else ""),
        "rate": load.rate,
        "seconds": load.seconds,
        "warmup": load.warmup,
        "target": load.target,
        "grace": load.grace,
        "connections": load.connections,
        "seed": load.seed,
        "content-type": load.content_type,
    }
    if load.token is not None:
        options["token"] = load.token
    if load.body is not None:
        options["body"] = load.body
    return [str(binary()), *(f"--{name}={value}" for name, value in options.items())]


def _outcome(found: Mapping[str, object]) -> Outcome:
    statuses, latency, late = found["statuses"], found["latency_ms"], found["client_late_ms"]
    assert isinstance(statuses, dict)
    assert isinstance(latency, dict)
    assert isinstance(late, dict)
    counted = {int(status): int(count) for status, count in statuses.items()}
    sent = int(str(found["sent"]))
    return Outcome(
        sent=sent,
        ok=int(str(found["ok"])),
        goodput=float(str(found["goodput"])),
        throughput=float(str(found["throughput"])),
        statuses=counted,
        lost=sent - sum(counted.values()),
        waited=int(str(found["waited_for_connection"])),
        latency={name: float(value) for name, value in latency.items()},
        client_late={name: float(value) for name, value in late.items()},
        client_cpu=float(str(found["client_cpu"])),
    )
