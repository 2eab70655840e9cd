"""The closed loop: drives one running server with wrk and reads back what wrk measured."""

from __future__ import annotations

import json
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.environments import require

SCRIPT = Path(__file__).resolve().parent / "post.lua"


@dataclass(frozen=True, slots=True)
class Target:
    """Whom to ask, and what: the body is the bytes of a file."""

    url: str
    token: str | None
    body: Path
    content_type: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of wrk. Answers of 2xx and 3xx count as answered, all else as errors."""

    rate: float  # answered requests a second
    seconds: float
    p50: float  # ms, of all answers
    p99: float
    mean: float
    errors: int
    client: float  # cores that wrk itself kept busy: at 1.0 its one thread was the limit

    def figures(self) -> dict[str, tuple[float, ...]]:
        """For a row."""
        return {
            "p50 ms": (self.p50,),
            "p99 ms": (self.p99,),
            "mean ms": (self.mean,),
            "errors": (float(self.errors),),
            "client cores": (self.client,),
        }


def check() -> None:
    """Raise `Missing` where wrk is not installed."""
    require("wrk", "apt-get install -y wrk")


def measure(target: Target, connections: int, seconds: float, timeout: int = 30) -> Sample:
    """Load ``target``: ``connections`` kept alive, each sending as soon as it has its answer.

    Raises:
        RuntimeError: wrk could not connect, or wrote nothing.
    """
    # One thread: wrk shares the machine's cores with the server that it measures.
    command = ["wrk", "-t", "1", "-c", str(connections), "-d", f"{max(1, round(seconds))}s"]
    command += ["--timeout", f"{timeout}s", "-s", str(SCRIPT), target.url, "--"]
    command += [target.token or "-", str(target.body), target.content_type]
    before = _spent()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    client = _spent() - before
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"requests"')]
    if not lines:
        raise RuntimeError(f"wrk failed: {(done.stderr or done.stdout).strip()}")
    result = json.loads(lines[-1])
    good = result["requests"] - result["bad_status"]
    return Sample(
        rate=good / result["seconds"],
        seconds=result["seconds"],
        p50=result["p50"],
        p99=result["p99"],
        mean=result["mean"],
        errors=int(result["bad_status"] + result["socket_errors"]),
        client=client / result["seconds"],
    )


def _spent() -> float:
    """CPU seconds of children that have been waited for: while wrk runs, wrk alone."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
