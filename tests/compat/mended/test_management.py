"""Mended on purpose: what describe shows, and calls that scale and unregister."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import aiohttp
import pytest

from tests.compat.scenes import refuse
from tests.core_rig import Site, never, until
from tests.fakes import FakeWorker, run_virtual
from tests.frontend.http_fakes import edge
from ts_frontend.errors import BadRequest, Internal, ModelNotFound, RequestTimeout
from ts_worker.backend.base import ReplySink
from ts_worker.messages import Predict, Reply, Response, pack_headers


async def test_a_failing_load_tells_its_traceback(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe said that workers did not start and nothing more; describe said UNLOADING."""
    site.backend.load = refuse
    url = site.model()
    with pytest.raises(Internal) as caught:
        await site.register(url)
    assert caught.value.message == (
        "Failed to start workers for model m version: 1.0\n"
        "ValueError: no weights\nTraceback\n  line 3\nValueError: no weights"
    )
    assert "  line 3\nValueError: no weights" in caplog.text
    await site.register(url, synchronous=False)
    await until(lambda: site.catalog.find("m").slots[0].error is not None)
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["error"] == "ValueError: no weights"


async def test_a_model_that_fails_at_the_start_stays_visible(site: Site) -> None:
    """TorchServe logged a line and forgot the model: describe was a 404, and nothing that asks for
    health could tell."""
    (site.folder / "junk.mar").write_text("junk")
    await site.management.startup.load("junk.mar")
    (body,) = await site.management.describe("junk", None)
    assert body["error"].startswith("Failed to save model: junk.mar")
    assert site.inference.healthy()  # /ping says what it said there
    (reason,) = site.management.startup.missing()
    assert reason.startswith("Model junk could not be registered; ")


async def test_start_times_are_utc(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe wrote local time and put the Z of UTC behind it."""
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        await site.register(site.model())
        site.catalog.find("m").slots[0].started_at = 1_700_000_000.25
        (body,) = await site.management.describe("m", None)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert body["workers"][0]["startTime"] == "2023-11-14T22:13:20.250Z"


async def test_memory_usage_is_of_now(site: Site) -> None:
    """TorchServe described what its last round of system metrics had found: 0 for up to a minute,
    and for ever where they were switched off."""
    await site.register(site.model())
    site.catalog.find("m").slots[0].reports.started(os.getpid())
    (body,) = await site.management.describe("m", None)
    assert body["workers"][0]["memoryUsage"] > 1_000_000


async def test_a_call_that_is_overtaken_has_not_failed(site: Site) -> None:
    """TorchServe reported workers that were stopped on purpose as failed to start."""
    site.backend.load = never
    await site.register(site.model(), 0)
    call = asyncio.create_task(site.management.scale("m", None, 2, 2, True))
    await site.backend.until(lambda: site.backend.starting == 2)
    await site.management.scale("m", None, 0, 0, True)
    assert (await call).status == 206


async def test_a_negative_number_of_workers_is_a_400(site: Site) -> None:
    """TorchServe's own IndexOutOfBoundsException came through, as 500."""
    await site.register(site.model(), 0)
    with pytest.raises(BadRequest, match=r"^min_worker cannot be negative\.$"):
        await site.management.scale("m", None, -1, -1, True)


def test_an_unregister_that_times_out_is_not_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After a 408 TorchServe had the model back, without workers and, for a URL, without its
    archive in the store."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)

    async def main() -> None:
        async with Site(tmp_path, unregister_model_timeout=10) as site:
            url = site.model()
            await site.register(url)
            stuck, free = site.worker, asyncio.Event()

            async def stop(grace: float) -> None:
                await free.wait()
                stuck.die(None, 9)

            monkeypatch.setattr(stuck, "stop", stop)
            with pytest.raises(RequestTimeout, match=r"^Timed out while cleaning resources: m$"):
                await site.management.unregister("m", None)
            assert asyncio.get_running_loop().time() == 15
            with pytest.raises(ModelNotFound):
                await site.management.unregister("m", None)
            assert (await site.register(url)).status == 200  # no 409
            assert len(site.backend.alive) == 2
            free.set()
            await until(lambda: len(site.backend.alive) == 1)

    run_virtual(main)
    assert "W-9000-m_1.0 (process 4000000) has not ended within 15 s" in caplog.text


async def test_a_describe_call_keeps_its_own_status_and_headers(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe answered a describe call with whatever status and headers the handler had set."""

    def styled(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        headers = pack_headers([("content-type", "text/plain")])
        rows = tuple(Response(one.id, 299, "Odd", headers, b'{"a": 1}') for one in batch.requests)
        answer = Reply(batch.batch_id, 200, "", rows)
        asyncio.get_running_loop().call_soon(reply, answer)

    site.backend.behaviour = styled
    await site.register(site.model())
    async with edge() as e, aiohttp.ClientSession() as session:
        monkeypatch.setattr(e.management, "describe", site.management.describe)
        async with session.get(e.url("/models/m?customized=true", 1)) as answer:
            assert (answer.status, answer.content_type) == (200, "application/json")
            assert (await answer.json())[0]["customizedMetadata"] == {"a": 1}
