"""Drives one running server with wrk and reads back what wrk measured."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from servers import Target

SCRIPT = Path(__file__).resolve().parent / "post.lua"
WARM_UP_SECONDS = 6  # TorchServe's JIT compiler is still at work after two


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk: answered requests a second (2xx and 3xx only), milliseconds, failures."""

    rate: float
    p50: float
    p99: float
    errors: int


def warm_up(target: Target, connections: int) -> None:
    """Let the server reach its speed before `measure`."""
    _wrk(target, connections, WARM_UP_SECONDS)


def measure(target: Target, connections: int, seconds: int) -> Sample:
    """Load ``target``: ``connections`` kept alive, each sending as soon as it has its answer."""
    result = _wrk(target, connections, seconds)
    good = result["requests"] - result["bad_status"]
    return Sample(
        rate=good / result["seconds"],
        p50=result["p50_ms"],
        p99=result["p99_ms"],
        errors=int(result["bad_status"] + result["socket_errors"]),
    )


def middle(samples: list[Sample]) -> Sample:
    """The median of each figure over the rounds, and all errors together."""
    return Sample(
        rate=median(s.rate for s in samples),
        p50=median(s.p50 for s in samples),
        p99=median(s.p99 for s in samples),
        errors=sum(s.errors for s in samples),
    )


def _wrk(target: Target, connections: int, seconds: int) -> dict[str, float]:
    # One thread: wrk shares the machine's cores with the server that it measures.
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{seconds}s", "--timeout", "10s"]
    command += ["-s", str(SCRIPT), target.url, "--", target.token or "-"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"requests"')]
    result: dict[str, float] = json.loads(lines[-1])
    return result
