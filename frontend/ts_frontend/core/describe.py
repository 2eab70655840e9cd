"""The bodies of describe and list, field for field as TorchServe answers them.

`management` calls it.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from ts_frontend.core.devices import Devices
from ts_frontend.core.history import tail, timestamp
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.model import ModelVersion, ReloadFailure
from ts_frontend.core.slot import Slot, State
from ts_worker.messages import Request, pack_headers

_PAGE = 100
_CAUSE_LINES = 2  # of a failure to start workers: what failed, and why; then comes the traceback


async def describe_versions(
    models: Sequence[ModelVersion], devices: Devices, *, loaded_at_startup: bool
) -> list[dict[str, Any]]:
    """The describe array, as everything stands in one moment.

    What is known here is looked up before anything is waited for. The kernel and the GPU driver
    are asked then, once for all workers.
    """
    bodies = [_version(model, loaded_at_startup=loaded_at_startup) for model in models]
    workers = [worker for body in bodies for worker in body["workers"]]
    slots = [slot for model in models for slot in model.slots]
    found = await asyncio.to_thread(_measure, [(slot.pids, slot.device) for slot in slots], devices)
    for worker, (memory, usage) in zip(workers, found, strict=True):
        worker["memoryUsage"], worker["gpuUsage"] = memory, usage
    return bodies


async def ask_handler(model: ModelVersion) -> dict[str, Any] | None:
    """What a handler says of its model, for ``customizedMetadata``; None if that is nothing.

    Raises:
        ServeError: as `describe_itself`.
    """
    request = Request(str(uuid.uuid4()).encode(), pack_headers([("describe", "True")]), ())
    answer = await describe_itself(model, request)
    if not answer.body:
        return None
    try:
        metadata = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _version(model: ModelVersion, *, loaded_at_startup: bool) -> dict[str, Any]:
    """One element of the array, in TorchServe's order.

    Keys of what is not built yet have the values that TorchServe shows where they are unused.
    """
    settings, parallel = model.settings, model.settings.parallel
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
        "workers": [_worker(slot) for slot in model.slots],
        "jobQueueStatus": {
            "remainingCapacity": model.queue.remaining,
            "pendingRequests": len(model.queue),
        },
    }
    if model.queue.target is not None:
        body["maxLatencyMs"] = settings.max_latency
        body["batching"] = {"policy": "latency_target", **model.queue.target.body()}
    if model.reload_failure is not None:
        body["reloadError"] = _reload_error(model.reload_failure)
    return body


def _reload_error(failure: ReloadFailure) -> dict[str, Any]:
    lines = failure.text.splitlines()
    return {
        "time": timestamp(failure.at),
        "error": " ".join(lines[:_CAUSE_LINES]),
        "traceback": tail("\n".join(lines[_CAUSE_LINES:])),
    }


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


def _worker(slot: Slot) -> dict[str, Any]:
    """A worker, but for what only the kernel and the GPU driver know: see `_measure`."""
    pids = slot.pids
    body: dict[str, Any] = {
        "id": slot.id,
        "startTime": timestamp(slot.started_at),  # TorchServe wrote local time before the Z
        "status": "READY" if slot.state is State.READY else "UNLOADING",
        "memoryUsage": 0,
        "pid": pids[0] if pids else -1,
        "gpu": slot.device is not None,
        "gpuUsage": "N/A",
    }
    if slot.failure is not None:
        body["error"] = slot.failure.message
        if slot.failure.traceback:
            body["traceback"] = tail(slot.failure.traceback)
    if slot.history.troubled:
        body["history"] = slot.history.body()
    return body


def _measure(
    workers: Sequence[tuple[tuple[int, ...], int | None]], devices: Devices
) -> list[tuple[int, str]]:
    """``memoryUsage`` and ``gpuUsage`` of workers, of each of which the processes and the GPU are
    given. Not for the loop."""
    gpus = {device for _, device in workers if device is not None}
    usage = {device: devices.usage(device) for device in gpus}
    return [
        (sum(map(_resident, pids)), "N/A" if device is None else usage[device])
        for pids, device in workers
    ]


def _resident(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it has gone."""
    import psutil  # a server that starts needs it not yet

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0
