"""Scale, unregister and set-default: texts, races with each other, and what is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core_rig import Site, never
from tests.fakes import FakeWorker, LoadFailed, hold, make_request
from ts_frontend.core.archive import Archive
from ts_frontend.core.management import Outcome
from ts_frontend.errors import (
    BadRequest,
    Internal,
    InvalidVersion,
    ModelNotFound,
    RequestTimeout,
    VersionNotFound,
)
from ts_worker.backend.base import WorkerSpec


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        yield site


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(507, "System out of memory", "Traceback ...\nMemoryError")


async def test_scale_texts(site: Site) -> None:
    await site.register(site.model(), 1)
    scale = site.management.scale
    assert await scale("m", None, 2, 2, True) == Outcome(200, "Workers scaled to 2 for model: m")
    assert await scale("m", "1.0", 3, 4, True) == Outcome(
        200, "Workers scaled to 3 for model: m, version: 1.0"
    )
    assert await scale("m", None, 1, 1, False) == Outcome(202, "Processing worker updates...")
    with pytest.raises(BadRequest, match=r"^max_worker cannot be less than min_worker\.$"):
        await scale("m", None, 2, 1, True)
    with pytest.raises(BadRequest, match="negative"):
        await scale("m", None, -1, 1, True)
    with pytest.raises(ModelNotFound, match=r"^Model not found: x$"):
        await scale("x", None, 1, 1, True)
    with pytest.raises(VersionNotFound, match=r"^Model version: 9 does not exist for model: m$"):
        await scale("m", "9", 1, 1, True)


async def test_a_failed_scale_keeps_the_model_and_prints_null(site: Site) -> None:
    await site.register(site.model(), 1)
    site.backend.load = refuse
    with pytest.raises(Internal, match=r"^Failed to start workers for model m version: null\n"):
        await site.management.scale("m", None, 2, 2, True)
    assert len(site.catalog.find("m").slots) == 2
    # Nothing to start, but not all run either.
    assert (await site.management.scale("m", None, 1, 2, True)).status == 200
    assert (await site.management.scale("m", None, 2, 2, True)).status == 206


async def test_a_scale_that_another_one_comes_over_has_not_failed(site: Site) -> None:
    await site.register(site.model(), 1)
    site.backend.load = never
    scale = site.management.scale

    call = asyncio.create_task(scale("m", None, 3, 3, True))
    await site.backend.until(lambda: site.backend.starting == 2)
    await scale("m", None, 1, 1, True)
    assert await call == Outcome(206, "Workers scaling in progress...")
    # Unregistered meanwhile.
    call = asyncio.create_task(scale("m", "1.0", 3, 3, True))
    await site.backend.until(lambda: site.backend.starting == 2)
    await site.management.unregister("m", None)
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await call


async def test_set_default_and_ready(site: Site) -> None:
    await site.register(site.model(), 0)
    await site.register(site.model(version="2"), 1)
    assert not site.management.ready("m")
    assert site.management.set_default("m", "2") == Outcome(
        200, 'Default version successfully updated for model "m" to "2"'
    )
    assert site.management.ready("m")
    with pytest.raises(ModelNotFound):
        site.management.ready("x")


async def test_unregister(site: Site) -> None:
    await site.register(site.model(), 1)
    await site.register(site.model(version="2"), 2)
    unregister = site.management.unregister
    with pytest.raises(InvalidVersion, match=r"^Cannot remove default version for model m$"):
        await unregister("m", None)
    with pytest.raises(VersionNotFound):
        await unregister("m", "9")
    assert await unregister("m", "2") == Outcome(200, 'Model "m" unregistered')
    assert [worker.id for worker in site.backend.alive] == ["9000"]
    assert await unregister("m", None) == Outcome(200, 'Model "m" unregistered')
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await unregister("m", None)
    assert (site.backend.alive, site.unpacked) == ([], 0)
    assert (site.folder / "m-1.0" / "handler.py").is_file()


async def test_unregister_answers_running_and_waiting_requests(site: Site) -> None:
    site.backend.behaviour = hold
    await site.register(site.model(), 1)
    predict = site.inference.predict
    running = asyncio.create_task(predict("m", None, make_request(b"run")))
    waiting = asyncio.create_task(predict("m", "1.0", make_request()))
    await site.worker.received()
    leaving = asyncio.create_task(site.management.unregister("m", None))
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await waiting
    assert not leaving.done()
    site.worker.finish()
    assert (await running).body == b"run"
    await leaving


async def test_a_model_that_still_loads_can_be_unregistered(site: Site) -> None:
    site.backend.load = never
    registering = asyncio.create_task(site.register(site.model(), 1))
    await site.backend.until(lambda: site.backend.starting == 1)
    await site.management.unregister("m", None)
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await registering
    site.backend.load = None
    assert (await site.register("m-1.0")).status == 200


async def test_a_failing_register_leaves_a_namesake_alone(site: Site) -> None:
    url = site.model()
    gate = asyncio.Event()

    async def load(spec: WorkerSpec) -> None:
        await gate.wait()
        raise LoadFailed(500, "no")

    site.backend.load = load
    registering = asyncio.create_task(site.register(url, 1))
    await site.backend.until(lambda: site.backend.starting == 1)
    await site.management.unregister("m", None)
    site.backend.load = None
    await site.register(url, 1)
    gate.set()
    with pytest.raises(ModelNotFound):
        await registering
    assert len(site.catalog.find("m").slots) == 1


async def test_a_failing_default_that_is_no_longer_alone_stays(site: Site) -> None:
    gate = asyncio.Event()

    async def load(spec: WorkerSpec) -> None:
        await gate.wait()
        raise LoadFailed(500, "no")

    site.backend.load = load
    registering = asyncio.create_task(site.register(site.model(), 1))
    await site.backend.until(lambda: site.backend.starting == 1)
    await site.register(site.model(version="2"), 0)
    gate.set()
    with pytest.raises(Internal):
        await registering
    assert site.catalog.find("m").version == "1.0"


async def test_unregister_whose_workers_hang_is_408_and_frees_the_name(tmp_path: Path) -> None:
    async with Site(tmp_path, unregister_model_timeout=1) as site:
        site.supervisor._config = site.config
        await site.register(site.model(), 1)
        gate = asyncio.Event()

        async def stop(grace: float) -> None:
            await gate.wait()
            FakeWorker.die(site.backend.workers[0], None, 9)

        site.worker.stop = stop  # type: ignore[method-assign]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ts_frontend.core.supervisor._STOP_MARGIN", -0.95)
            with pytest.raises(RequestTimeout, match=r"^Timed out while cleaning resources: m$"):
                await site.management.unregister("m", None)
        with pytest.raises(ModelNotFound):
            site.catalog.find("m")
        gate.set()


async def test_cancelling_a_register_before_it_is_in_leaves_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def build(*_: object) -> None:
        reached.set()
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr("ts_frontend.core.registrar.build", build)
    task = asyncio.create_task(site.register(site.model()))
    await reached.wait()
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert site.unpacked == 0


async def test_an_unexpected_failure_of_one_startup_model_leaves_the_others(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fetch = site.management._registrar._store.fetch

    async def odd(url: str, **options: bool) -> Archive:
        if url == "bad.mar":
            raise ValueError("the cause")
        return await fetch(url, **options)

    monkeypatch.setattr(site.management._registrar._store, "fetch", odd)
    await site.management.startup.load(f"bad.mar, http://[x/m.mar, {site.model()}")
    assert [model.name for model in site.catalog] == ["m"]
    assert "Failed to load model: bad.mar" in caplog.text
    assert "ValueError: the cause" in caplog.text
    assert "Failed to download archive from: http://[x/m.mar" in caplog.text
    (body,) = await site.management.describe("bad", None)
    assert body["error"] == "ValueError: the cause"
    assert body["traceback"][-1] == "ValueError: the cause"


async def test_close_deletes_what_was_unpacked(site: Site) -> None:
    await site.register(site.model(), 1)
    await site.register(site.model("n"), 1)
    assert len({model.archive.root for model in site.catalog if model.archive.root.exists()}) == 2
    await site.supervisor.close()
    await site.management.close()
    assert site.unpacked == 0
    assert (site.folder / "m-1.0" / "handler.py").is_file()


async def test_models_do_not_wait_for_each_other(site: Site) -> None:
    site.backend.load = never
    slow = asyncio.create_task(site.register(site.model("slow"), 1))
    await site.backend.until(lambda: site.backend.starting == 1)
    site.backend.load = None
    assert (await site.register(site.model("quick"), 1)).status == 200
    assert not slow.done()
    slow.cancel()
    await asyncio.wait([slow])
    # Only the end of the server cancels, and what was not done by then is undone.
    assert [model.name for model in site.catalog] == ["quick"]
