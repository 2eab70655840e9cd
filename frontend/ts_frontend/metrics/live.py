"""Gauges that are computed when /metrics is read, so that they cost a request nothing.

`recorder` fills them from what `core.status` sees and from what the kernel and the GPU driver say
about the workers' processes.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from ts_frontend.core.status import STATES, VersionStatus
from ts_frontend.metrics.family import Family
from ts_frontend.metrics.meters import VERSION
from ts_frontend.metrics.spec import MetricSpec
from ts_frontend.metrics.system import Gpus

log = logging.getLogger(__name__)

_WORKER = ("model_name", "model_version", "worker_id", "hostname")
_STATE = ("model_name", "model_version", "state", "hostname")
MEMORY_NAMES = frozenset({"ts_worker_resident_memory_bytes", "ts_worker_gpu_memory_bytes"})


def _gauge(name: str, unit: str, dimensions: tuple[str, ...] = VERSION) -> Family:
    return Family(MetricSpec(name, unit, "gauge", dimensions))


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes by process id: of resident memory, and of GPU memory where the driver tells."""

    resident: Mapping[int, int] = field(default_factory=dict)
    gpu: Mapping[int, int] = field(default_factory=dict)


class WorkerMemory:
    """What the processes of workers hold."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        self._gpus = gpus or Gpus()

    def usage(self, pids: Collection[int]) -> Usage:
        """Ask for these processes; gone ones are left out. Blocks for some milliseconds."""
        resident = {pid: size for pid in pids if (size := _resident(pid)) is not None}
        held = self._gpus.memory_by_process() if pids else {}
        gpu: Counter[int] = Counter()
        for pid, size in held.items():
            owner = pid if pid in resident else _session(pid)
            if owner in resident:
                gpu[owner] += size
        return Usage(resident, dict(gpu))


class LiveGauges:
    """The gauges of queues, requests and workers.

    Args:
        host: the value of the host label.
    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._default = _gauge("ts_model_default_version", "Count")
        self._depth = _gauge("ts_queue_depth", "Requests")
        self._oldest = _gauge("ts_queue_oldest_wait_seconds", "Seconds")
        self._in_flight = _gauge("ts_requests_in_flight", "Requests")
        self._workers = _gauge("ts_workers", "Workers", _STATE)
        self._resident = _gauge("ts_worker_resident_memory_bytes", "Bytes", _WORKER)
        self._gpu = _gauge("ts_worker_gpu_memory_bytes", "Bytes", _WORKER)
        self.all = (
            *(self._default, self._depth, self._oldest, self._in_flight),
            *(self._workers, self._resident, self._gpu),
        )

    def fill(self, versions: Sequence[VersionStatus], usage: Usage) -> None:
        """Replace every series by what is there now."""
        for family in self.all:
            family.clear()
        for one in versions:
            labels = (one.model, one.version, self._host)
            self._default.child(labels).update(1.0 if one.default else 0.0)
            self._depth.child(labels).update(one.queued)
            self._oldest.child(labels).update(one.oldest_wait)
            self._in_flight.child(labels).update(one.in_flight)
            self._fill_workers(one, usage)

    def _fill_workers(self, one: VersionStatus, usage: Usage) -> None:
        counts = Counter(worker.state for worker in one.workers)
        for state in STATES:
            labels = (one.model, one.version, state, self._host)
            self._workers.child(labels).update(counts[state])
        for worker in one.workers:
            labels = (one.model, one.version, worker.id, self._host)
            for family, held in ((self._resident, usage.resident), (self._gpu, usage.gpu)):
                # Of several processes: a worker that is spread over ranks.
                if parts := [held[pid] for pid in worker.pids if pid in held]:
                    family.child(labels).update(sum(parts))


def pids(versions: Sequence[VersionStatus]) -> AbstractSet[int]:
    """The processes of all workers."""
    return {pid for one in versions for worker in one.workers for pid in worker.pids}


def _resident(pid: int) -> int | None:
    import psutil  # a server that starts needs it not yet

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None


def _session(pid: int) -> int | None:
    # A worker leads a session: what its handler starts is in it, and counts as the worker's.
    try:
        return os.getsid(pid)
    except (OSError, AttributeError):  # gone, of another container, or Windows
        return None
