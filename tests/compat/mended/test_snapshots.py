"""Mended on purpose: what a snapshot holds, and what the next start makes of it."""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path

import pytest

from tests.compat.scenes import properties
from tests.core_rig import Site, model_folder
from tests.fakes import make_request
from ts_frontend.config import Config, load_config
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.errors import VersionNotFound
from ts_frontend.model_snapshot import ModelSnapshot, SavedVersion, model_snapshot
from ts_frontend.properties import parse
from ts_frontend.snapshot_store import Folder

NOON = datetime(2024, 5, 30, 12).timestamp()


class Left:
    """Snapshots of a server's core, in files."""

    def __init__(self, place: Path, config: Config | None = None, *, at: float = NOON) -> None:
        self.folder = place / "logs" / "config"
        self.now = at
        self._config = config or Config()

    async def write(self, site: Site | None = None) -> None:
        """What a run leaves that begins and ends at once."""
        there = list if site is None else site.management.startup.saved
        failed = list if site is None else site.management.startup.failed_entries
        snapshots = Snapshots(
            self._config, Folder(self.folder), there, failed=failed, clock=lambda: self.now
        )
        snapshots.begin()
        await snapshots.close()

    @property
    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    @property
    def models(self) -> ModelSnapshot:
        """What the next start would restore."""
        found = Folder(self.folder).last()
        assert found is not None
        entries = {entry.key: entry.value for entry in parse(found[1])}
        models = model_snapshot(entries["model_snapshot"])
        assert models is not None
        return models


async def test_a_model_that_is_not_restored_keeps_no_other_out_and_is_not_lost(
    site: Site, tmp_path: Path
) -> None:
    """TorchServe restored nothing after the first model that failed."""
    bad, good = (
        SavedVersion(name, "1.0", True, f"{name}-1.0", 0, 0, 1, 100) for name in ("bad", "good")
    )
    site.model("good")
    await site.management.startup.restore(ModelSnapshot("x", (bad, good)))
    assert [one.name for one in site.catalog] == ["good"]
    assert "Model bad version 1.0 could not be" in site.management.startup.missing()[0]
    left = Left(tmp_path)
    await left.write(site)
    assert set(left.models.versions) == {bad, good}


async def test_no_other_version_stands_in_for_a_default_that_is_not_restored(site: Site) -> None:
    """TorchServe gave up all of the snapshot; version 1.0 must not answer for the broken 2.0."""
    old, new = (
        SavedVersion("m", number, number == "2.0", f"m-{number}", 0, 0, 1, 100)
        for number in ("1.0", "2.0")
    )
    url = site.model("m", "1.0")
    await site.management.startup.restore(ModelSnapshot("x", (old, new)))
    assert site.catalog.find("m", "1.0").url == Path(url).name
    with pytest.raises(VersionNotFound, match=r"^Model version: 2.0 does not exist for model: m$"):
        await site.inference.predict("m", None, make_request())
    await site.register(site.model("m", "2.0"), 0)
    assert site.catalog.find("m").version == "2.0"


async def test_a_model_that_failed_at_the_start_is_tried_again_at_the_next(
    site: Site, tmp_path: Path
) -> None:
    """TorchServe's second start went by a snapshot that did not have it."""
    await site.management.startup.load("m=m.mar, gone.mar")
    left = Left(tmp_path)
    await left.write(site)
    assert left.models.failed == ("m=m.mar", "gone.mar")
    second = {"load_models": "m=m.mar", "model_snapshot": left.models}
    async with Site(tmp_path / "again", **second) as again:
        await again.management.startup.run()
        (reason,) = again.management.startup.missing()
    assert reason.startswith("Model m could not be registered; ")


async def test_snapshots_are_private_whole_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe wrote into the file that the next start might read, and removed none."""
    left = Left(tmp_path)
    for _ in range(52):
        await left.write()
    kinds = [name.partition("-")[2] for name in left.names]
    assert {kind: kinds.count(kind) for kind in kinds} == {"startup.cfg": 50, "shutdown.cfg": 50}
    modes = {stat.S_IMODE((left.folder / name).stat().st_mode) for name in left.names}
    assert modes == {0o600}
    before = left.names

    def killed(*_: object) -> None:
        raise OSError("here the server ends")

    monkeypatch.setattr(os, "fsync", killed)
    await left.write()
    assert left.names == before


async def test_snapshots_hold_no_values_of_variables(tmp_path: Path) -> None:
    """TorchServe wrote down all that was in effect."""
    properties(tmp_path, "enable_envvars_config=true", "keystore_pass=$$SECRET$$")
    environ = {"SECRET": "hunter2", "TS_JOB_QUEUE_SIZE": "9"}
    config = load_config({}, environ, tmp_path)
    left = Left(tmp_path, config)
    await left.write()
    text = (left.folder / left.names[-1]).read_text()
    assert "keystore_pass=$$SECRET$$\n" in text
    assert "hunter2" not in text
    assert "job_queue_size" not in text


async def test_a_snapshot_is_always_named_as_the_last(tmp_path: Path) -> None:
    """TorchServe wrote none under a name that was taken, and went by the time of the clock."""
    left = Left(tmp_path)
    await left.write()
    left.now -= 3600
    await left.write()
    assert [name[:17] for name in left.names] == [f"20240530120000{ms:03}" for ms in range(4)]
    assert left.names[-1].endswith("-shutdown.cfg")


async def test_a_folder_outside_the_store_is_restored(site: Site, tmp_path: Path) -> None:
    """TorchServe looked for the last part of its path in the model store."""
    folder = model_folder(tmp_path / "elsewhere")
    await site.register(str(folder), 0)
    left = Left(tmp_path)
    await left.write(site)
    assert [one.mar_name for one in left.models.versions] == [str(folder)]
    assert left.models.absent(site.folder, tmp_path) == []


def test_other_files_beside_the_snapshots_do_not_matter(tmp_path: Path) -> None:
    """TorchServe took each name up to the first dash for a number, and ended where it was none."""
    properties(tmp_path)
    folder = tmp_path / "logs" / "config"
    folder.mkdir(parents=True)
    (folder / "my-backup.cfg").write_text("job_queue_size=1")
    assert load_config({}, {}, tmp_path).job_queue_size == 100
