"""The bodies of describe and list, field for field as TorchServe answers them.

`management` calls it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import psutil

from ts_frontend.core.devices import Devices
from ts_frontend.core.history import tail, timestamp
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import Slot, State

_PAGE = 100
_CAUSE_LINES = 2  # of a failure to start workers: what failed, and why; then comes the traceback


async def describe_version(
    model: ModelVersion, devices: Devices, *, loaded_at_startup: bool
) -> dict[str, Any]:
    """One element of the describe array, in TorchServe's order.

    Keys of what is not built yet have the values that TorchServe shows where they are unused.
    """
    settings, parallel = model.settings, model.settings.parallel
    slots = list(model.slots)
    workers = await asyncio.to_thread(lambda: [_worker(slot, devices) for slot in slots])
    body: dict[str, Any] = {
        "modelName": model.name,
        "modelVersion": model.version,
        "modelUrl": model.url,
        "runtime": model.runtime,
        "minWorkers": model.min_workers,
        "maxWorkers": model.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay,
        "responseTimeout": settings.response_timeout,
        "startupTimeout": settings.startup_timeout,
        "maxRetryTimeoutInSec": settings.max_retry_timeout,
        "clientTimeoutInMills": settings.client_timeout,
        "parallelType": "" if parallel is None else parallel.type,
        "parallelLevel": 0 if parallel is None else parallel.level,
        "deviceType": model.device_type,
    }
    if model.device_ids is not None:
        body["deviceIds"] = list(model.device_ids)
    body |= {
        "continuousBatching": False,
        "useJobTicket": False,
        "useVenv": settings.use_venv,
        "stateful": False,
        "sequenceMaxIdleMSec": 0,
        "sequenceTimeoutMSec": 0,
        "maxNumSequence": 0,
        "maxSequenceJobQueueSize": 0,
        "loadedAtStartup": loaded_at_startup,
        "workers": workers,
        "jobQueueStatus": {
            "remainingCapacity": model.queue.remaining,
            "pendingRequests": len(model.queue),
        },
    }
    failure = model.reload_failure
    if failure is not None:
        lines = failure.text.splitlines()
        body["reloadError"] = {
            "time": timestamp(failure.at),
            "error": " ".join(lines[:_CAUSE_LINES]),
            "traceback": tail("\n".join(lines[_CAUSE_LINES:])),
        }
    return body


def list_page(models: Sequence[ModelVersion], limit: int, token: int) -> dict[str, Any]:
    """One page of the list of models.

    As in TorchServe a token is given even where the page ends with the last model.
    """
    size = limit if 0 <= limit <= _PAGE else _PAGE
    start = max(0, token)
    end = start + size
    body: dict[str, Any] = {}
    if end <= len(models):
        body["nextPageToken"] = str(end)
    body["models"] = [
        {"modelName": model.name, "modelUrl": model.url} for model in models[start:end]
    ]
    return body


def _worker(slot: Slot, devices: Devices) -> dict[str, Any]:
    """Asks the kernel and the GPU driver: not for the loop."""
    pids = slot.pids
    body: dict[str, Any] = {
        "id": slot.id,
        "startTime": timestamp(slot.started_at),  # TorchServe wrote local time before the Z
        "status": "READY" if slot.state is State.READY else "UNLOADING",
        "memoryUsage": sum(map(_resident, pids)),
        "pid": pids[0] if pids else -1,
        "gpu": slot.device is not None,
        "gpuUsage": "N/A" if slot.device is None else devices.usage(slot.device),
    }
    if slot.failure is not None:
        body["error"] = slot.failure.message
        if slot.failure.traceback:
            body["traceback"] = tail(slot.failure.traceback)
    if slot.history.troubled:
        body["history"] = slot.history.body()
    return body


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it has gone."""
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
