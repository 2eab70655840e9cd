"""What the tests of snapshots share: a folder, what lies in it, and a core that writes there."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.core_rig import Site
from ts_frontend.config import Config, load_config
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.properties import decode, parse
from ts_frontend.snapshot_store import Folder, snapshot_folder

REQUIRED = {
    "defaultVersion": True,
    "marName": "m-1.0",
    "minWorkers": 1,
    "maxWorkers": 5,
    "batchSize": 2,
    "maxBatchDelay": 10,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a server without GPUs, with a model store."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    (tmp_path / "store").mkdir()
    return tmp_path


def start(home: Path, *lines: str, env: dict[str, str] | None = None, **options: Any) -> Config:
    """What a start goes by; with lines, ``./config.properties`` has them."""
    if lines:
        (home / "config.properties").write_text("\n".join(["model_store=store", *lines]))
    return load_config(options, env or {}, home)


def written(home: Path) -> list[str]:
    folder = snapshot_folder(home / "logs")
    return sorted(os.listdir(folder)) if folder.exists() else []


def entries(home: Path, name: str) -> dict[str, str]:
    data = (snapshot_folder(home / "logs") / name).read_bytes()
    return {entry.key: entry.value for entry in parse(decode(data))}


def put(home: Path, name: str, *lines: str) -> Path:
    """Leave a snapshot of another server."""
    folder = snapshot_folder(home / "logs")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines))
    return folder / name


def model_snapshot(models: dict[str, Any], **more: Any) -> str:
    count = sum(map(len, models.values()))
    whole = {"name": "startup.cfg", "modelCount": count, "models": models, **more}
    return f"model_snapshot={json.dumps(whole)}"


@dataclass
class House:
    """The core of a server that writes snapshots."""

    site: Site
    snapshots: Snapshots

    async def settled(self) -> None:
        while (writing := self.snapshots._writing) is not None and not writing.done():
            await writing


@asynccontextmanager
async def serve(home: Path, config: Config) -> AsyncIterator[House]:
    """From the registered models of the start to the last snapshot."""
    fields = {
        name: getattr(config, name)
        for name in ("model_snapshot", "load_models", "written", "source", "debug")
    }
    async with Site(home, **fields) as site:
        snapshots = Snapshots(
            site.config, Folder(home / "logs" / "config"), site.management.startup.saved
        )
        site.management.on_change(snapshots.changed)
        if config.model_snapshot is not None:
            await site.management.startup.restore(config.model_snapshot)
        elif config.load_models:
            await site.management.startup.load(config.load_models)
        snapshots.begin()
        house = House(site, snapshots)
        await house.settled()
        yield house
        await snapshots.close()
