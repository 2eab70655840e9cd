"""When the server wants traffic, and how its start is given up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.core_rig import Site, until
from ts_frontend.server import _unless
from ts_worker.backend.base import WorkerSpec


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
        (site.folder / "junk.mar").write_text("junk")
        missing = site.management.missing
        assert missing() == ["The models of load_models are still being registered."]
        await site.management.load_at_startup("all")
        assert missing() == ["Model m version 1.0: 0 of 2 workers have loaded."]
        assert site.inference.healthy()
        gate.set()
        await until(lambda: not missing())
        # One that restarts is no reason to take the server out of the traffic.
        gate.clear()
        site.worker.die(1, None)
        await site.backend.until(lambda: site.backend.starting == 1)
        assert missing() == []


@pytest.mark.parametrize("models", ["", "m"])
async def test_without_startup_models_it_is_ready_at_once(tmp_path: Path, models: str) -> None:
    async with Site(tmp_path, load_models=models) as site:
        assert bool(site.management.missing()) == bool(models)


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
