"""The bodies of describe and list, field by field."""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.core_rig import Site, until
from tests.fakes import FakeWorker, LoadFailed
from ts_frontend.core.devices import Devices
from ts_frontend.core.nvml import Gpu
from ts_frontend.errors import (
    ModelNotFound,
    ServiceUnavailable,
    VersionNotFound,
)
from ts_worker.backend.base import ReplySink, WorkerSpec
from ts_worker.messages import Predict, Reply, Response, unpack_headers


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        yield site


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(507, "System out of memory", "Traceback ...\nMemoryError")


async def test_describe_field_by_field(site: Site) -> None:
    url = site.model(yaml="batchSize: 2\nmaxBatchDelay: 7\nclientTimeoutInMills: 9\n")
    await site.register(url, 1, response_timeout=11, startup_timeout=12)
    (body,) = await site.management.describe("m", None)
    (worker,) = body.pop("workers")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker.pop("startTime"))
    assert list(worker.items()) == [
        ("id", "9000"),
        ("status", "READY"),
        ("memoryUsage", 0),
        ("pid", 4_000_000),
        ("gpu", False),
        ("gpuUsage", "N/A"),
    ]
    assert list(body.items()) == [
        ("modelName", "m"),
        ("modelVersion", "1.0"),
        ("modelUrl", url),
        ("runtime", "python"),
        ("minWorkers", 1),
        ("maxWorkers", 1),
        ("batchSize", 2),
        ("maxBatchDelay", 7),
        ("responseTimeout", 11),
        ("startupTimeout", 12),
        ("maxRetryTimeoutInSec", 300),
        ("clientTimeoutInMills", 9),
        ("parallelType", ""),
        ("parallelLevel", 0),
        ("deviceType", "cpu"),
        ("continuousBatching", False),
        ("useJobTicket", False),
        ("useVenv", False),
        ("stateful", False),
        ("sequenceMaxIdleMSec", 0),
        ("sequenceTimeoutMSec", 0),
        ("maxNumSequence", 0),
        ("maxSequenceJobQueueSize", 0),
        ("loadedAtStartup", False),
        ("jobQueueStatus", {"remainingCapacity": 100, "pendingRequests": 0}),
    ]


async def test_the_order_of_workers_in_describe(site: Site) -> None:
    await site.register(site.model(), 1)
    (body,) = await site.management.describe("m", "1.0")
    keys = list(body)
    assert keys.index("loadedAtStartup") < keys.index("workers") < keys.index("jobQueueStatus")
    assert list(body["workers"][0])[:3] == ["id", "startTime", "status"]


async def test_memory_and_pid_of_a_real_process(site: Site) -> None:
    await site.register(site.model(), 1)
    site.catalog.find("m").slots[0].reports.started(os.getpid())
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["pid"] == os.getpid()
    assert body["workers"][0]["memoryUsage"] > 10_000_000


async def test_a_worker_that_is_not_there_yet_has_pid_minus_one(site: Site) -> None:
    await site.register(site.model(), 1)
    site.backend.load = refuse
    site.worker.die(1, None, "exit code 1")
    slot = site.catalog.find("m").slots[0]
    await until(lambda: slot.error is not None)
    (body,) = await site.management.describe("m", None)
    (worker,) = body["workers"]
    assert (worker["pid"], worker["status"], worker["error"]) == (-1, "UNLOADING", "exit code 1")


async def test_a_worker_that_failed_tells_its_traceback_and_what_it_went_through(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.core.slot.BACK_OFF", (0, 1000))
    await site.register(site.model(), 1)
    (body,) = await site.management.describe("m", None)
    assert not {"error", "traceback", "history"} & set(body["workers"][0])
    site.backend.load = refuse
    site.worker.die(None, 9, "killed by signal 9")
    slot = site.catalog.find("m").slots[0]
    await until(lambda: slot.error == "System out of memory")
    (body,) = await site.management.describe("m", None)
    (worker,) = body["workers"]
    assert worker["error"] == "System out of memory"
    assert worker["traceback"] == ["Traceback ...", "MemoryError"]
    assert [(one["state"], one.get("reason")) for one in worker["history"]] == [
        ("STARTING", None),
        ("READY", None),
        ("WAITING", "killed by signal 9"),
        ("STARTING", None),
        ("WAITING", "System out of memory"),
    ]
    assert all(re.fullmatch(r"\d{4}-.*T.*\.\d{3}Z", one["time"]) for one in worker["history"])


async def test_describe_all_versions_and_unknown_ones(site: Site) -> None:
    await site.register(site.model(), 0)
    await site.register(site.model(version="2"), 0)
    bodies = await site.management.describe("m", "all", customized=True)
    assert [body["modelVersion"] for body in bodies] == ["1.0", "2"]
    assert bodies[0]["workers"] == []
    with pytest.raises(ModelNotFound, match=r"^Model not found: x$"):
        await site.management.describe("x", "all")
    with pytest.raises(VersionNotFound, match=r"^Model version: 3 does not exist for model: m$"):
        await site.management.describe("m", "3")


async def test_all_versions_are_described_as_of_one_moment(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("1.0", "2", "3"):
        await site.register(site.model(version=number), 1)
    measuring, go_on = threading.Event(), threading.Event()
    measured: list[list[int]] = []

    def measure(workers: list[tuple[tuple[int, ...], int | None]], devices: Devices) -> Any:
        measured.append([len(pids) for pids, _ in workers])
        measuring.set()
        go_on.wait(20)
        return [(7, "N/A") for _ in workers]

    monkeypatch.setattr("ts_frontend.core.describe._measure", measure)
    describing = asyncio.create_task(site.management.describe("m", "all"))
    await asyncio.to_thread(measuring.wait, 20)
    await site.management.scale("m", "2", 3, 3, True)
    await site.management.unregister("m", "3")
    go_on.set()
    bodies = await describing
    assert measured == [[1, 1, 1]]
    assert [body["minWorkers"] for body in bodies] == [1, 1, 1]
    assert [[one["memoryUsage"] for one in body["workers"]] for body in bodies] == [[7]] * 3


async def test_devices_in_describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Gpu(f"GPU-{n}", "H100", f"{n}") for n in range(4)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: found)
    monkeypatch.setattr("ts_frontend.core.devices.usage", lambda gpu: None)
    async with Site(tmp_path) as site:
        await site.register(site.model(), 2)
        await site.register(site.model("ids", yaml="deviceIds: [3, 1]\n"), 2)
        await site.register(site.model("cpu", yaml="deviceType: cpu\n"), 1)
        assert [spec.device for spec in site.backend.specs] == [0, 1, 3, 1, None]
        (body,) = await site.management.describe("ids", None)
        assert (body["deviceType"], body["deviceIds"]) == ("gpu", [3, 1])
        worker = body["workers"][0]
        assert (worker["gpu"], worker["gpuUsage"]) == (True, "failed to obtained gpu usage")
        (body,) = await site.management.describe("cpu", None)
        assert body["deviceType"] == "cpu"
        assert "deviceIds" not in body


@pytest.mark.parametrize(
    ("answer", "metadata"),
    [(b'{"a": 1}', {"a": 1}), (b"[1]", {}), (b"no json", {}), (b"", None)],
)
async def test_customized_describe(site: Site, answer: bytes, metadata: object) -> None:
    def describe(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        (request,) = batch.requests
        assert unpack_headers(request.headers) == [("describe", "True")]
        row = Response(request.id, 200, "", b"", answer)
        asyncio.get_running_loop().call_soon(reply, Reply(batch.batch_id, 200, "", (row,)))

    site.backend.behaviour = describe
    await site.register(site.model(), 1)
    (body,) = await site.management.describe("m", None, customized=True)
    assert body.get("customizedMetadata") == metadata
    await site.management.scale("m", None, 0, 0, True)
    with pytest.raises(ServiceUnavailable, match=r'^Model "m" has no worker to serve describe'):
        await site.management.describe("m", None, customized=True)


async def test_lists_and_their_pages(site: Site) -> None:
    names = [f"m{n}" for n in range(5)]
    for name in reversed(names):
        await site.register(site.model(name), 0)

    def page(limit: int, token: int) -> tuple[list[str], str | None]:
        body = site.management.list_models(limit, token)
        assert all(model["modelUrl"].endswith("-1.0") for model in body["models"])
        return [model["modelName"] for model in body["models"]], body.get("nextPageToken")

    assert page(2, 0) == (names[:2], "2")
    assert page(2, 2) == (names[2:4], "4")
    assert page(2, 4) == (names[4:], None)
    assert page(5, 0) == (names, "5")  # TorchServe's token past the end
    assert page(0, 3) == ([], "3")
    assert page(-1, -7) == (names, None)
    assert page(101, 0) == (names, None)
    assert page(2, 9) == ([], None)
