"""One version of one model: what it is made of, its queue and its workers.

`registration` makes it, `catalog` keeps it, `supervisor` gives it workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from ts_frontend.core.batch_policy import make_policy
from ts_frontend.core.batching import JobQueue
from ts_frontend.core.latency_target import LatencyTarget
from ts_frontend.core.prefetch import Prefetch
from ts_frontend.core.settings import Registration, Settings
from ts_frontend.core.target_queue import OnTime, TargetQueue
from ts_frontend.errors import NotInTime, RequestTimeout, ServeError

if TYPE_CHECKING:
    from ts_frontend.core.archive import Archive
    from ts_frontend.core.devices import GpuSet
    from ts_frontend.core.slot import Slot


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a worker of this version: see `WorkerSpec` for each field but the last.

    Args:
        not_installed: of the model's own packages, for whoever misses one; empty where the model
            has none, or they are there.
    """

    model_dir: str
    handler: str
    python: str | None = None
    import_paths: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    not_installed: str = ""


@dataclass(frozen=True, slots=True)
class ReloadFailure:
    """Why a version could not be loaded anew and goes on as it was.

    Args:
        at: seconds since 1970.
    """

    at: float
    text: str

    @classmethod
    def now(cls, text: str) -> ReloadFailure:
        return cls(time.time(), text)


@dataclass(slots=True, eq=False)
class ModelVersion:
    """A registered version. Its identity is the object: a version that is registered again under
    the same name is another one.

    Args:
        next_device: gives each new worker its CUDA ordinal, or None for the CPU.
        gpu_sets: where a worker needs several GPUs, those that it may have; next_device is then not
            asked.
        asked: the call that it was registered by.
        yaml_workers: how many workers its yaml wants, where it says so.
        reload_failure: of the last reload, if it failed.
    """

    name: str
    version: str
    runtime: str
    archive: Archive
    settings: Settings
    launch: Launch
    next_device: Callable[[], int | None]
    device_type: str = "cpu"  # as described; "gpu" where the workers go to GPUs
    device_ids: tuple[int, ...] | None = None
    gpu_sets: tuple[GpuSet, ...] = ()
    min_workers: int = 0
    max_workers: int = 0
    asked: Registration | None = None
    yaml_workers: tuple[int, int] | None = None
    reload_failure: ReloadFailure | None = None
    slots: list[Slot] = field(default_factory=list)
    queue: JobQueue = field(init=False)

    def __post_init__(self) -> None:
        settings = self.settings
        self.queue = self._make_queue()
        if settings.prefetch:
            patience = settings.max_batch_delay / 1000
            self.queue.prefetch = Prefetch(self.queue, settings.prefetch, patience)

    def _make_queue(self) -> JobQueue:
        settings = self.settings
        make: Callable[..., JobQueue] = partial(
            JobQueue, make_policy(settings.batch_policy, settings.max_batch_delay)
        )
        if settings.max_latency:
            target = LatencyTarget(settings.max_latency / 1000, settings.batch_size)
            make = partial(TargetQueue, OnTime(target, self._refusal))
        return make(
            capacity=settings.job_queue_size,
            batch_size=settings.batch_size,
            client_timeout=settings.client_timeout / 1000,
            expired=self._expired,
        )

    @property
    def url(self) -> str:
        return self.archive.url

    def free_gpus(self) -> GpuSet | None:
        """The set that fewest workers have, of which there may be too many for a moment; None where
        a worker needs no set."""
        taken = [slot.gpus for slot in self.slots]
        return min(self.gpu_sets, key=taken.count, default=None)

    def _expired(self, waiting: bool) -> ServeError:
        limit = f"clientTimeoutInMills={self.settings.client_timeout}"
        request = f"Request to model {self.name} version {self.version}"
        if waiting:
            return RequestTimeout(f"{request} waited longer than {limit} in the queue.")
        return RequestTimeout(f"{request} was not answered by its worker in {limit}.", status=504)

    def _refusal(self) -> ServeError:
        cause = f"It cannot be answered within maxLatencyMs={self.settings.max_latency}."
        text = f"{no_worker(self.name, None)}. {cause}"
        return NotInTime(text, reason="latency_target")

    def healthy_workers(self, now: float) -> int:
        """Workers that never failed or may still recover; ``now`` is of the loop's clock."""
        return sum(slot.healthy(now) for slot in self.slots)


def no_worker(model: str, version: str | None) -> str:
    """TorchServe's one text for no worker and full queue, unbalanced quotes included."""
    subject = f'Model "{model}"' if version is None else f'Model "{model}" Version {version}"'
    return (
        f"{subject} has no worker to serve inference request. Please use scale workers API to "
        "add workers. If this is a sequence inference, please check if it is closed, or expired; "
        "or exceeds maxSequenceJobQueueSize"
    )
