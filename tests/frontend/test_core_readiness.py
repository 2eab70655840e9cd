"""When the server wants traffic, and how its start is given up."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core_rig import Site, until
from tests.fakes import LoadFailed
from ts_frontend.core.settings import Registration
from ts_frontend.errors import ModelNotFound, VersionNotFound
from ts_frontend.server import _unless
from ts_worker.backend.base import WorkerSpec


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        yield site


async def test_ready_once_every_startup_model_has_its_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    gate = asyncio.Event()

    async def load(spec: WorkerSpec) -> None:
        await gate.wait()

    async with Site(tmp_path, load_models="all", default_workers_per_model=2) as site:
        site.backend.load = load
        site.model()
        missing = site.management.startup.missing
        assert missing() == ["The models of load_models are still being registered."]
        await site.management.startup.load("all")
        assert missing() == ["Model m version 1.0: 0 of 2 workers have loaded."]
        assert site.inference.healthy()
        gate.set()
        await until(lambda: not missing())
        # One that restarts is no reason to take the server out of the traffic.
        gate.clear()
        site.worker.die(1, None)
        await site.backend.until(lambda: site.backend.starting == 1)
        assert missing() == []


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(
        500, "ValueError: no weights\nin the file", "Traceback\nValueError: no weights"
    )


async def test_a_startup_model_whose_workers_fail_holds_readiness_back_and_says_why(
    site: Site,
) -> None:
    site.backend.load = refuse
    site.model()
    await site.management.startup.load("all")
    await until(lambda: all(slot.error for slot in site.catalog.find("m").slots))
    reason = (
        "Model m version 1.0: 0 of 3 workers have loaded and 3 fail to load; "
        "the cause is in the log and in GET /models/m/1.0 on the management port."
    )
    assert site.management.startup.missing() == [reason]
    assert site.management.startup.model_missing("m", "1.0") == [reason]
    await site.management.unregister("m", None)
    assert site.management.startup.missing() == []


async def test_a_broken_archive_holds_readiness_back_until_it_is_registered_or_deleted(
    site: Site,
) -> None:
    (site.folder / "junk.mar").write_text("junk")
    await site.management.startup.load("junk.mar, mended=junk.mar")
    reasons = site.management.startup.missing()
    assert reasons == [
        f"Model {name} could not be registered; "
        f"the cause is in the log and in GET /models/{name} on the management port."
        for name in ("junk", "mended")
    ]
    assert site.management.startup.model_missing("junk", None) == reasons[:1]
    await site.management.unregister("junk", None)
    assert site.management.startup.missing() == reasons[1:]
    with pytest.raises(ModelNotFound):
        await site.management.unregister("junk", None)
    await site.register(site.model(), 0, model_name="mended")
    assert site.management.startup.missing() == []


async def test_what_needs_no_token_and_the_log_tell_no_secrets(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    urls = [
        "https://user:s3cr3t@host.invalid/m.mar?X-Amz-Signature=s3cr3t",
        "https://user:s3cr3t@host.invalid?s3cr3t=a b=s3cr3t",
        "http://host.invalid/../n.mar#s3cr3t",
        "ftp://user:s3cr3t@host/n.mar",
    ]
    await site.management.startup.load(", ".join(urls))
    reasons = site.management.startup.missing()
    for name in ("m", "n", "host_invalid"):
        reasons += site.management.startup.model_missing(name, None)
    assert len(reasons) == 8
    assert "s3cr3t" not in "".join(reasons)
    lines = [one.getMessage() for one in caplog.records if "Failed to load" in one.getMessage()]
    assert len(lines) == 4
    assert "https://host.invalid/m.mar" in lines[0]
    assert "s3cr3t" not in caplog.text
    # Who has a token sees all of it.
    (body,) = await site.management.describe("m", None)
    assert body["modelUrl"] == urls[0]
    assert "a user or password before it, which is not sent" in body["error"]


async def test_what_a_handler_raises_is_not_told_without_a_token(site: Site) -> None:
    async def load(spec: WorkerSpec) -> None:
        raise LoadFailed(500, "KeyError: 's3cr3t'")

    site.backend.load = load
    await site.management.register(Registration(site.model(), initial_workers=1, synchronous=False))
    await until(lambda: bool(site.catalog.find("m").slots[0].error))
    assert "s3cr3t" not in str(site.management.startup.model_missing("m", None))


async def test_a_model_that_is_listed_twice_is_there_and_ready(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    url = site.model()
    await site.management.startup.load(f"{url}, {url}")
    await until(lambda: not site.management.startup.missing())
    assert "is already registered for model m" in caplog.text


async def test_a_failed_model_stays_visible_in_describe(site: Site) -> None:
    (site.folder / "junk.mar").write_text("junk")
    await site.management.startup.load("junk.mar")
    for version in (None, "all", "1.0"):
        (body,) = await site.management.describe("junk", version)
        assert list(body) == [
            *("modelName", "modelUrl", "loadedAtStartup", "workers", "status", "error", "history")
        ]
        assert (body["modelUrl"], body["workers"], body["status"]) == ("junk.mar", [], "FAILED")
        assert body["error"].startswith("Failed to save model: junk.mar\n")
        assert [(one["state"], "reason" in one) for one in body["history"]] == [
            ("REGISTERING", False),
            ("FAILED", True),
        ]
    await site.register(site.model("other"), 0, model_name="junk")
    (body,) = await site.management.describe("junk", "all")
    assert body["modelVersion"] == "1.0"
    with pytest.raises(ModelNotFound):
        await site.management.describe("none", None)


async def test_a_failed_model_has_the_name_of_its_manifest(site: Site) -> None:
    (site.folder / "a.mar").write_text("junk")
    bad = site.model("resnet", "2.1", yaml="a: [\n")
    renamed = site.folder / "resnet-18_v2"
    shutil.move(bad, renamed)
    await site.management.startup.load(f"resnet-18_v2, other={renamed}, a.mar")
    for name in ("resnet", "other"):
        (body,) = await site.management.describe(name, None)
        assert (body["modelVersion"], body["modelUrl"][-12:]) == ("2.1", "resnet-18_v2")
    with pytest.raises(ModelNotFound):
        await site.management.describe("resnet_18_v2", None)
    # A mended one may be of another version, and one from the same place of another name.
    await site.register(site.model("resnet", "2.2"), 0)
    (site.folder / "a.mar").unlink()
    shutil.move(site.model("b"), site.folder / "a.mar")
    await site.register("a.mar", 0)
    (reason,) = site.management.startup.missing()
    assert reason.startswith("Model other version 2.1 could not be registered; ")
    await site.management.unregister("other", "2.1")
    assert site.management.startup.missing() == []


async def test_a_model_is_ready_when_its_minimum_has_loaded_and_one_worker_is_there(
    site: Site,
) -> None:
    gates = [asyncio.Event(), asyncio.Event()]
    waiting = iter(gates)

    async def load(spec: WorkerSpec) -> None:
        await next(waiting).wait()

    site.backend.load = load
    await site.register(site.model(), 2, synchronous=False)
    missing = site.management.startup.model_missing
    gates[0].set()
    await site.backend.until(lambda: bool(site.backend.workers))
    await until(lambda: missing("m", None) == ["Model m version 1.0: 1 of 2 workers have loaded."])
    gates[1].set()
    await until(lambda: missing("m", "1.0") == [])
    # One that restarts: the other serves.
    site.backend.load = refuse
    site.backend.workers[0].die(1, None, "it fell over")
    await until(lambda: site.catalog.find("m").slots[0].error == "it fell over")
    assert missing("m", None) == []
    site.backend.workers[1].die(1, None, "it fell over too")
    await until(lambda: bool(missing("m", None)))
    (reason,) = missing("m", None)
    assert reason.startswith("Model m version 1.0: 0 of 2 workers have loaded and 2 have ended; ")
    await site.management.scale("m", None, 0, 0, True)
    assert missing("m", None) == ["Model m version 1.0 has no worker: scale it up."]
    with pytest.raises(VersionNotFound):
        missing("m", "2.0")


@pytest.mark.parametrize("models", ["", "m"])
async def test_without_startup_models_it_is_ready_at_once(tmp_path: Path, models: str) -> None:
    async with Site(tmp_path, load_models=models) as site:
        assert bool(site.management.startup.missing()) == bool(models)


async def test_stopping_cancels_the_work() -> None:
    stopping, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        stopping.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    assert not await asyncio.wait_for(_unless(stopping, work()), 5)
    assert cancelled.is_set()


async def test_work_that_ends_first_is_done_and_its_error_is_told() -> None:
    async def fail() -> None:
        raise KeyError("x")

    assert await _unless(asyncio.Event(), asyncio.sleep(0))
    with pytest.raises(KeyError):
        await _unless(asyncio.Event(), fail())
