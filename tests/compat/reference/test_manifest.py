"""The manifest of an archive by the table 3.4, and archives without one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat.reference.rows import row
from tests.compat.reference.settings_rig import read
from tests.core_rig import Site
from ts_frontend.core.python_env import PythonNeeds
from ts_frontend.errors import BadRequest, Conflict, Internal, InvalidModel


@row("3.4 createdOn", "3.4 description", "3.4 archiverVersion", "3.4 model.description")
async def test_fields_that_may_be_missing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model()
        manifest = {"model": {"modelName": "m", "handler": "handler.py"}}
        (Path(url) / "MAR-INF" / "MANIFEST.json").write_text(json.dumps(manifest))
        await site.register(url)
        model = site.catalog.find("m")
        assert (model.version, model.runtime) == ("1.0", "python")


@row("3.4 runtime")
async def test_runtime(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(runtime="python3"), 0)
        assert site.catalog.find("m").runtime == "python3"
        for name, runtime, text in (
            ("n", "ruby", r"^Runtime is not defined or invalid\.$"),
            ("o", "LSP", "has runtime LSP"),
        ):
            with pytest.raises(InvalidModel, match=text) as caught:
                await site.register(site.model(name, runtime=runtime), 0)
            assert caught.value.status == 400
        with pytest.raises(BadRequest, match=r"^Invalid RuntimeType value: ruby$"):
            await site.register("m-1.0", 0, runtime="ruby")


@row("3.4 model.modelName", "3.4 model.modelVersion")
async def test_name_and_version(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model("a", "7-beta"))
        assert site.worker.spec.model_version == "7-beta"
        with pytest.raises(
            Conflict, match="Model version 7-beta is already registered for model a"
        ):
            await site.register("a-7-beta")
        await site.register("a-7-beta", model_name="b")
        assert site.worker.spec.model_name == "b"


@row("3.4 model.handler", "3.4 model.envelope")
async def test_handler_and_envelope(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(handler="mine.py:Own", envelope="json"))
        assert (site.worker.spec.handler, site.worker.spec.envelope) == ("mine.py:Own", None)


@row("3.4 model.requirementsFile")
async def test_requirements_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    async def prepare(needs: PythonNeeds, *_: object) -> None:
        asked.append(needs.requirements)

    monkeypatch.setattr("ts_frontend.core.registration.prepare", prepare)
    async with Site(tmp_path, **read(install_py_dep_per_model="true")) as site:
        await site.register(site.model(requirementsFile="more.txt"))
    assert asked == ["more.txt"]


@row("3.4 model.configFile")
async def test_config_file(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model(configFile="other.yaml")
        with pytest.raises(InvalidModel, match=r"Failed to read other\.yaml"):
            await site.register(url)
        (Path(url) / "other.yaml").write_text("batchSize: 8\n")
        await site.register(url)
        assert site.worker.spec.batch_size == 8


@row("3.4 no manifest")
async def test_no_manifest(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(default_service_handler="own.py")) as site:
        (site.folder / "my-model").mkdir()
        await site.register("my-model")
        spec = site.worker.spec
        assert (spec.model_name, spec.model_version, spec.handler) == ("my_model", "1.0", "own.py")


@row("3.4 not a zip")
async def test_a_mar_that_is_no_zip(tmp_path: Path) -> None:
    """TorchServe served an empty folder with defaults; nothing could load from it."""
    async with Site(tmp_path) as site:
        (site.folder / "junk.mar").write_bytes(b"junk")
        with pytest.raises(Internal, match=r"^Failed to save model: junk\.mar"):
            await site.register("junk.mar")


@row("3.4 unparsable")
async def test_an_unparsable_manifest(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model()
        (Path(url) / "MAR-INF" / "MANIFEST.json").write_text("{")
        with pytest.raises(InvalidModel, match=r"^Failed to parse signature\.json\.") as caught:
            await site.register(url)
        assert caught.value.status == 400
