"""Large bodies, answered with their length, beside a bare aiohttp handler that only reads them."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.closed import Workload, measured
from benchmarks.peers.peer import Job
from benchmarks.rows import Row
from benchmarks.suite import Options

SIZES = (1, 5)  # MB
CONNECTIONS = 4
LIMIT = 10_000_000  # above TorchServe's and ours of 6.5 MB and aiohttp's of 1 MiB


def run(options: Options) -> Iterator[Row]:
    """1 MB and 5 MB over four connections, one worker, batch 1."""
    workloads = [
        Workload(f"{size} MB body", _job(size * 1_000_000), (CONNECTIONS,))
        for size in (SIZES[1:] if options.quick else SIZES)
    ]
    yield from measured("bodies", workloads, options)


def _job(size: int) -> Job:
    body = bytes(range(256)) * (size // 256 + 1)
    return Job("length", body[:size], "application/octet-stream", body_limit=LIMIT)
