"""Echo: a JSON body of 30 bytes comes back; one worker, with and without batches.

What the server itself costs, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.closed import Workload, measured
from benchmarks.peers.peer import Job
from benchmarks.rows import Row
from benchmarks.suite import Options

BODY = b'{"text":"thirty bytes of it!"}'
CONNECTIONS = (1, 16, 64, 256)


def single() -> Job:
    """One request at a time; `pairs` measures it, too."""
    return Job("echo", BODY, "application/json")


def run(options: Options) -> Iterator[Row]:
    """Batch 1, and batch 32 with a delay of 5 ms."""
    connections = (1, 64) if options.quick else CONNECTIONS
    batched = replace(single(), batch=32, delay_ms=5)
    workloads = [
        Workload("batch 1", single(), connections),
        Workload("batch 32 / 5 ms", batched, connections),
    ]
    yield from measured("echo", workloads, options)
