"""A start from a snapshot: what it gives back, and that what fails then is not lost."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.core_rig import Site, model_folder
from tests.fakes import LoadFailed, make_request
from ts_frontend.core.management import Registration
from ts_frontend.core.settings import NEVER
from ts_frontend.errors import Internal, InvalidVersion, ModelNotFound, VersionNotFound
from ts_frontend.model_snapshot import ModelSnapshot, SavedVersion
from ts_worker.backend.base import WorkerSpec


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)


def saved(model: str = "m", version: str = "1.0", **more: Any) -> SavedVersion:
    """As a snapshot has a version of `model_folder`, without workers."""
    facts: dict[str, Any] = {
        "default": True,
        "mar_name": f"{model}-{version}",
        "min_workers": 0,
        "max_workers": 0,
        "batch_size": 1,
        "max_batch_delay": 100,
    }
    return SavedVersion(model, version, **{**facts, **more})


def site_of(place: Path, *versions: SavedVersion, **config: Any) -> Site:
    return Site(place, model_snapshot=ModelSnapshot("x", versions), **config)


async def restore(site: Site) -> None:
    assert site.config.model_snapshot is not None
    await site.management.startup.restore(site.config.model_snapshot)


async def test_what_was_saved_is_what_is_saved_again(tmp_path: Path) -> None:
    versions = (
        saved("m", "2", min_workers=1, max_workers=4, batch_size=3, response_timeout=7),
        saved("n", "1.0", max_batch_delay=0, startup_timeout=8, runtime="python3", max_latency=50),
        saved("m", "1.0", default=False, handler="other.py"),
    )
    async with site_of(tmp_path, *versions) as site:
        for one in versions:
            site.model(one.model, one.version)
        missing = site.management.startup.missing()
        assert missing == ["The models of the snapshot are still being registered."]
        await restore(site)
        assert {str(one): one for one in site.management.startup.saved()} == {
            str(one): one for one in versions
        }
        assert site.catalog.find("m").version == "2"
        await site.backend.until(lambda: len(site.backend.workers) == 1)
        assert not site.catalog.loaded_at_startup("m")


@pytest.fixture
async def without_default(tmp_path: Path) -> AsyncIterator[Site]:
    """Restored with version 2 of m, whose default version 1.0 is broken."""
    broken = saved("m", "1.0", min_workers=2, max_workers=2)
    other = saved("m", "2", default=False)
    async with site_of(tmp_path, broken, other) as site:
        site.model("m", "2")
        await restore(site)
        yield site


def defaults(site: Site) -> dict[str, bool]:
    """Of m, what the next start would restore."""
    return {one.version: one.default for one in site.management.startup.saved()}


async def test_without_its_default_version_a_model_answers_with_no_other(
    without_default: Site,
) -> None:
    site, management = without_default, without_default.management
    text = r"^Model version: 1.0 does not exist for model: m$"
    with pytest.raises(VersionNotFound, match=text):
        await site.inference.predict("m", None, make_request())
    with pytest.raises(VersionNotFound, match=text):
        await management.scale("m", None, 1, 1, True)
    with pytest.raises(VersionNotFound, match=text):
        management.ready("m")
    assert site.inference.healthy()
    assert defaults(site) == {"1.0": True, "2": False}
    for version in (None, "1.0"):
        (body,) = await management.describe("m", version)
        assert (body["modelVersion"], body["status"]) == ("1.0", "FAILED")
        (reason,) = management.startup.model_missing("m", version)
        assert reason.startswith("Model m version 1.0 could not be registered; ")
    with pytest.raises(VersionNotFound):
        management.startup.model_missing("m", "3")
    assert [one["modelVersion"] for one in await management.describe("m", "all")] == ["2", "1.0"]
    assert management.list_models(9, 0)["models"] == [{"modelName": "m", "modelUrl": "m-2"}]


async def test_another_default_version_may_be_chosen(without_default: Site) -> None:
    without_default.management.set_default("m", "2")
    assert without_default.catalog.find("m").version == "2"
    assert defaults(without_default) == {"1.0": False, "2": True}
    await without_default.management.unregister("m", "1.0")
    assert without_default.management.startup.missing() == []


async def test_a_default_version_that_is_mended_is_the_default(without_default: Site) -> None:
    site, management = without_default, without_default.management
    await site.register(site.model("m", "3"), 0)
    for version in (None, "1.0"):
        with pytest.raises(InvalidVersion, match=r"^Cannot remove default version for model m$"):
            await management.unregister("m", version)

    async def refuse(spec: WorkerSpec) -> None:
        raise LoadFailed(500, "no")

    site.backend.load = refuse
    url = site.model("m", "1.0")
    with pytest.raises(Internal):
        await site.register(url)
    assert defaults(site) == {"1.0": True, "2": False, "3": False}
    site.backend.load = None
    await site.register(url)
    assert site.catalog.find("m").version == "1.0"
    assert defaults(site) == {"1.0": True, "2": False, "3": False}
    with pytest.raises(InvalidVersion):
        await management.unregister("m", "1.0")


async def test_the_first_version_that_somebody_registers_is_the_default(
    without_default: Site,
) -> None:
    await without_default.management.unregister("m", "2")
    with pytest.raises(ModelNotFound):
        without_default.catalog.find("m")
    await without_default.register(without_default.model("m", "3"), 0)
    assert defaults(without_default) == {"3": True, "1.0": False}


async def test_a_model_of_which_nothing_is_left_has_no_default(tmp_path: Path) -> None:
    async with site_of(tmp_path, saved("m", "1.0"), saved("m", "2", default=False)) as site:
        await restore(site)
        await site.management.unregister("m", "1.0")
        assert defaults(site) == {"2": False}
        await site.management.unregister("m", None)
        assert defaults(site) == {}


async def test_what_failed_goes_when_it_is_registered_or_deleted(tmp_path: Path) -> None:
    versions = (saved("m", "1.0"), saved("m", "2", default=False), saved("n", "1.0"))
    async with site_of(tmp_path, *versions) as site:
        changes: list[int] = []
        site.management.on_change(lambda: changes.append(1))
        await restore(site)
        assert len(site.management.startup.saved()) == 3
        await site.register(site.model("m", "1.0"), 0)
        assert [str(one) for one in site.management.startup.saved()] == ["m 1.0", "n 1.0", "m 2"]
        count = len(changes)
        await site.management.unregister("m", "2")
        await site.management.unregister("n", None)
        assert len(changes) == count + 2
        assert [str(one) for one in site.management.startup.saved()] == ["m 1.0"]
        with pytest.raises(VersionNotFound):
            await site.management.unregister("m", "2")
        with pytest.raises(ModelNotFound):
            await site.management.unregister("n", "1.0")
        assert site.management.startup.missing() == []


async def test_two_broken_versions_of_one_file_are_both_kept(tmp_path: Path) -> None:
    versions = tuple(
        saved("m", number, mar_name="m.mar", default=number == "2") for number in ("2", "1.0")
    )
    async with site_of(tmp_path, *versions) as site:
        (site.folder / "m.mar").write_text("junk")
        await restore(site)
        assert site.management.startup.saved() == list(versions)
        described = await site.management.describe("m", "all")
        assert [(one["modelVersion"], one["loadedAtStartup"]) for one in described] == [
            ("2", False),
            ("1.0", False),
        ]


async def test_an_archive_that_holds_another_version_now_is_not_taken_for_it(
    tmp_path: Path,
) -> None:
    async with site_of(tmp_path, saved("m", "1.0", mar_name="m-2")) as site:
        site.model("m", "2")
        await restore(site)
        assert list(site.catalog) == []
        (body,) = await site.management.describe("m", None)
        assert "m-2 has version 2 of model m, and the snapshot had version 1.0" in body["error"]
        assert site.unpacked == 0


async def test_a_folder_outside_the_store_is_kept_with_its_path(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "elsewhere")
    async with Site(tmp_path) as site:
        await site.register(str(folder), 0)
        await site.register(str(site.folder / Path(site.model("n")).name), 0)
        kept = site.management.startup.saved()
    assert [one.mar_name for one in kept] == [str(folder), "n-1.0"]
    async with site_of(tmp_path, *kept) as site:
        await restore(site)
        assert site.management.startup.saved() == kept


async def test_an_archive_that_was_downloaded_is_kept_by_its_file(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(), 0)
        model = site.catalog.find("m")
        model.archive = replace(
            model.archive, url="http://host/x.mar?sig=1", source=site.folder / "x.mar"
        )
        assert site.management.startup.saved()[0].mar_name == "x.mar"


async def test_the_handler_is_kept_only_where_the_archive_says_otherwise(tmp_path: Path) -> None:
    async with Site(tmp_path, default_service_handler="usual.py") as site:
        await site.register(site.model("a"), 0)
        await site.register(site.model("b", handler=""), 0)
        await site.register(site.model("c"), 0, handler="mine.py")
        handlers = {one.model: one.handler for one in site.management.startup.saved()}
    assert handlers == {"a": None, "b": None, "c": "mine.py"}


async def test_debug_mode_keeps_one_worker_and_no_timeouts(tmp_path: Path) -> None:
    one = saved(min_workers=3, max_workers=3, batch_size=5, response_timeout=7)
    async with site_of(tmp_path, one, debug=True) as site:
        site.model()
        await restore(site)
        model = site.catalog.find("m")
        assert (model.min_workers, model.max_workers, model.settings.batch_size) == (1, 1, 5)
        assert model.settings.response_timeout == NEVER


async def test_what_failed_of_load_models_is_tried_again(tmp_path: Path) -> None:
    line = "good=a, m=http://u:pw@h/m.mar, bad.mar"
    async with Site(tmp_path, load_models=line) as site:
        (site.folder / "bad.mar").write_text("junk")
        await site.management.startup.load(line)
        failed = tuple(site.management.startup.failed_entries())
        assert failed == ("good=a", "m=http://h/m.mar", "bad.mar")
        before = site.management.startup.missing()
    # The archive that was missing is there now, and one entry no longer listed.
    line = "good=a, m=http://u:pw@h/m.mar"
    snapshot = ModelSnapshot("x", (), failed)
    async with Site(tmp_path, load_models=line, model_snapshot=snapshot) as site:
        shutil.move(site.model("a"), site.folder / "a")
        await restore(site)
        assert [one.name for one in site.catalog] == ["good"]
        assert not site.catalog.loaded_at_startup("good")
        assert len(site.catalog.find("good").slots) == 3
        assert site.management.startup.failed_entries() == ["m=http://h/m.mar"]
        assert before[1] in site.management.startup.missing()
        await site.management.unregister("m", None)
        assert site.management.startup.failed_entries() == []


async def test_a_store_that_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    snapshot = ModelSnapshot("x", (), ("all",))
    async with Site(tmp_path, load_models="all", model_snapshot=snapshot) as site:
        site.model()
        await restore(site)
        assert [one.name for one in site.catalog] == ["m"]
        assert site.management.startup.failed_entries() == []


async def test_a_register_call_that_is_refused_changes_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        changes: list[int] = []
        site.management.on_change(lambda: changes.append(1))
        with pytest.raises(ModelNotFound):
            await site.management.register(Registration("no.mar"))
        assert changes == []
