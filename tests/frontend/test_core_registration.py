"""Register and startup loading: texts, sources of values, and what a failure leaves behind."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.core_rig import Site, until
from tests.fakes import LoadFailed
from ts_frontend.core.management import Outcome
from ts_frontend.core.slot import State
from ts_frontend.errors import (
    BadRequest,
    Conflict,
    Internal,
    InvalidModel,
    ModelNotFound,
    ModelSetupFailed,
)
from ts_worker.backend.base import WorkerSpec


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        yield site


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(507, "System out of memory", "Traceback ...\nMemoryError")


async def test_register_texts(site: Site) -> None:
    url = site.model()
    assert await site.register(url, 0) == Outcome(
        200,
        'Model "m" Version: 1.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model.",
    )
    assert await site.register(site.model(version="2"), 2) == Outcome(
        200, 'Model "m" Version: 2 registered with 2 initial workers'
    )
    assert await site.register(site.model("other"), 1, synchronous=False) == Outcome(
        202, "Processing worker updates..."
    )
    assert await site.register(site.model("zero"), None, synchronous=False) == Outcome(
        200,
        'Model "zero" Version: 1.0 registered with 0 initial workers. '
        "Use scale workers API to add workers for the model.",
    )
    with pytest.raises(Conflict, match=r"^Model version 1\.0 is already registered for model m$"):
        await site.register(url)
    assert len(list((site.temp / "models").glob("*/*"))) == 4


async def test_a_worker_that_dies_after_loading_makes_register_partial(site: Site) -> None:
    count = 0

    async def load(spec: WorkerSpec) -> None:
        nonlocal count
        count += 1
        if count == 2:  # the first one is up by then
            site.worker.die(1, None)
            first = site.catalog.find("m").slots[0]
            await until(lambda: first.state is not State.READY)

    site.backend.load = load
    assert await site.register(site.model(), 2) == Outcome(206, "Workers scaling in progress...")


async def test_a_failed_register_names_the_cause_and_takes_everything_back(site: Site) -> None:
    site.backend.load = refuse
    with pytest.raises(Internal) as caught:
        await site.register(site.model(), 3)
    assert caught.value.status == 507
    assert caught.value.message == (
        "Failed to start workers for model m version: 1.0\n"
        "System out of memory\nTraceback ...\nMemoryError"
    )
    with pytest.raises(ModelNotFound):
        site.catalog.find("m")
    assert site.unpacked == 0
    site.backend.load = None
    assert (await site.register("m-1.0")).status == 200


async def test_an_asynchronous_register_leaves_a_failing_model_retrying(site: Site) -> None:
    site.backend.load = refuse
    assert (await site.register(site.model(), 1, synchronous=False)).status == 202
    slot = site.catalog.find("m").slots[0]
    await until(lambda: slot.error is not None)
    (body,) = await site.management.describe("m", None)
    (worker,) = body["workers"]
    assert (worker["status"], worker["error"]) == ("UNLOADING", "System out of memory")


@pytest.mark.parametrize(
    ("entries", "options", "error"),
    [
        ({}, {"runtime": "java"}, BadRequest("Invalid RuntimeType value: java")),
        ({"runtime": "ruby"}, {}, InvalidModel("Runtime is not defined or invalid.")),
        ({}, {"model_name": "a/b"}, InvalidModel("Model name 'a/b' can't be part of a URL")),
        ({}, {"model_name": ".."}, InvalidModel("Model name '..' can't be part of a URL")),
        ({"modelVersion": "1/0"}, {}, InvalidModel("Model version '1/0' can't be part of a URL")),
        ({"modelVersion": "1\n2"}, {}, InvalidModel(r"Model version '1\n2' can't be part of")),
        ({"modelVersion": "."}, {}, InvalidModel("Model version '.' can't be part of a URL")),
        (
            {"modelVersion": "all"},
            {},
            InvalidModel("Model version all is a word of the management"),
        ),
        ({"modelVersion": "ready"}, {}, InvalidModel("Model version ready is a word of the")),
        ({"handler": ""}, {}, InvalidModel("No handler is defined for model m: ")),
        (
            {"handler": [3]},
            {},
            InvalidModel("Failed to parse signature.json. handler must be a text"),
        ),
        ({"runtime": "LSP"}, {}, InvalidModel("Model m has runtime LSP, ")),
        ({"yaml": "a: ["}, {}, InvalidModel("Failed to parse model-config.yaml: line 1")),
        ({"configFile": "none.yaml"}, {}, InvalidModel("Failed to read none.yaml: ")),
        ({"configFile": "../x"}, {}, InvalidModel("configFile ../x leads out of the archive.")),
    ],
)
async def test_what_register_refuses_leaves_nothing(
    site: Site, entries: dict[str, Any], options: dict[str, Any], error: Exception
) -> None:
    url = site.model(**entries)
    with pytest.raises(type(error), match=re.escape(str(error))):
        await site.register(url, **options)
    assert site.unpacked == 0
    assert site.management.list_models(100, 0) == {"models": []}


@pytest.mark.parametrize("version", ["1.0", "2", "1.10", "1E2", "true"])
async def test_a_version_in_a_manifest_need_not_be_quoted(site: Site, version: str) -> None:
    manifest = Path(site.model(version="given")) / "MAR-INF" / "MANIFEST.json"
    manifest.write_text(manifest.read_text().replace('"given"', version))
    await site.register("m-given", 0)
    assert [one.version for one in site.catalog.versions("m")] == [version]


async def test_a_manifest_without_model_entry(site: Site) -> None:
    folder = Path(site.model())
    (folder / "MAR-INF" / "MANIFEST.json").write_text('{"model": null}')
    with pytest.raises(InvalidModel, match=r"^Missing Model entry in manifest file\.$"):
        await site.register(str(folder))


async def test_without_manifest_the_call_and_the_file_name_decide(tmp_path: Path) -> None:
    async with Site(tmp_path, default_service_handler="default.py") as site:
        (site.folder / "my-model").mkdir()
        await site.register("my-model", model_name="given")
        await site.register("my-model", handler="called.py")
        assert [(spec.model_name, spec.handler) for spec in site.backend.specs] == [
            ("given", "default.py"),
            ("my_model", "called.py"),
        ]
        assert site.catalog.find("given").version == "1.0"


async def test_what_a_worker_is_started_with(tmp_path: Path) -> None:
    environ = {"PATH": "/bin", "SECRET_KEY": "x", "AWS": "y", "PYTHONPATH": "/mine"}
    config = {
        "blacklist_env_vars": "SECRET.*|AW",
        "service_envelope": "json",
        "limit_max_image_pixels": False,
        "decode_input_request": False,
    }
    async with Site(tmp_path, environ, **config) as site:
        url = site.model(yaml="batchSize: 4\n")
        await site.register(url, handler="/srv/code/my.py:run")
        (spec,) = site.backend.specs
        assert spec.env == {
            "PATH": "/bin",
            "AWS": "y",
            "PYTHONPATH": "/mine",
            "TS_DECODE_INPUT_REQUEST": "false",
            "TS_IPEX_ENABLE": "false",
            "TS_IPEX_GPU_ENABLE": "false",
        }
        root = os.path.dirname(spec.model_dir)
        assert spec.import_paths == ("/srv/code", url, root)
        assert (spec.batch_size, spec.envelope, spec.device) == (4, "json", None)
        assert (spec.limit_max_image_pixels, spec.decode_input_request) == (False, False)
        assert (spec.python, spec.handler) == (None, "/srv/code/my.py:run")


async def test_python3_is_whatever_has_that_name_on_the_path(tmp_path: Path) -> None:
    other = tmp_path / "bin" / "python3"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    async with Site(tmp_path, {"PATH": str(other.parent)}) as site:
        await site.register(site.model(runtime="python3"))
        await site.register(site.model("n"), runtime="python3")
        await site.register(site.model("o"), runtime="python")
        assert [spec.python for spec in site.backend.specs] == [str(other), str(other), None]
        (body,) = await site.management.describe("m", None)
        assert body["runtime"] == "python3"


async def test_failing_packages_leave_the_model_unregistered(tmp_path: Path) -> None:
    # TorchServe kept it registered, so that a second try was a conflict.
    async with Site(tmp_path, install_py_dep_per_model=True) as site:
        url = site.model(requirementsFile="none.txt")
        for _ in range(2):
            with pytest.raises(
                ModelSetupFailed, match="pip package installation failed for model m"
            ):
                await site.register(url)
        assert site.unpacked == 0
    async with Site(tmp_path) as site:
        assert (await site.register(url)).status == 200


async def lacks_a_package(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ModuleNotFoundError: No module named 'x'", "Traceback ...")


async def test_packages_that_are_not_installed_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hint = "its requirementsFile more.txt is not installed without install_py_dep_per_model=true"
    async with Site(tmp_path) as site:
        await site.register(site.model(requirementsFile="more.txt"))
        assert caplog.text.count(f"model m: {hint}") == 1
        site.backend.load = lacks_a_package
        with pytest.raises(Internal) as caught:
            await site.register(site.model("n", requirementsFile="more.txt"))
        assert f"ModuleNotFoundError: No module named 'x' ({hint})" in caught.value.message
        await site.register("n-1.0", synchronous=False)
        await site.catalog.find("n").slots[0].first
        (body,) = await site.management.describe("n", None)
        assert hint in body["workers"][0]["error"]


async def test_a_missing_package_that_no_archive_asks_for_gets_no_hint(site: Site) -> None:
    site.backend.load = lacks_a_package
    with pytest.raises(Internal) as caught:
        await site.register(site.model())
    assert "install_py_dep_per_model" not in caught.value.message


async def test_load_models_forms(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.model("a")
    site.model("b")
    (site.folder / "broken.mar").write_text("no zip")
    spec = f" a-1.0 ,, renamed = b-1.0,broken.mar,{site.folder}/b-1.0,http://h:1/x.mar?a=b"
    await site.management.startup.load(spec)
    names = [model["modelName"] for model in site.management.list_models(100, 0)["models"]]
    assert names == ["a", "b", "renamed"]
    assert "Failed to load model: broken.mar, Failed to save model: broken.mar" in caplog.text
    assert "Failed to load model: http://h:1/x.mar, Failed to download archive" in caplog.text
    # Workers by cores, as there is no GPU; nobody waits for them.
    assert {len(model.slots) for model in site.catalog} == {3}
    assert site.inference.startup_model() is None
    (body,) = await site.management.describe("a", None)
    assert body["loadedAtStartup"]


async def test_an_unreadable_store_is_logged_and_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Site(tmp_path) as site:
        with pytest.raises(Internal, match=r"^Failed to save model: x+\nFile name too long: "):
            await site.register("x" * 300)
        with pytest.raises(Internal, match=r"\nFile name too long: "):
            await site.register("http://127.0.0.1:1/" + "x" * 300)
        site.folder.rmdir()
        site.folder.write_text("no folder")
        await site.management.startup.load("all")
        assert "Failed to load model: all, The model store can't be read: " in caplog.text
        (reason,) = site.management.startup.missing()
        assert reason.startswith("Model all could not be registered; ")
        with pytest.raises(ModelNotFound):
            await site.register("x.mar")


@pytest.mark.parametrize("spec", ["all", "ALL"])
async def test_load_models_all(site: Site, spec: str) -> None:
    site.model("a")
    site.model("b")
    (site.folder / ".git").mkdir()
    await site.management.startup.load(spec)
    assert sorted(model.name for model in site.catalog) == ["a", "b"]


async def test_one_model_at_startup_is_the_one_invocations_mean(tmp_path: Path) -> None:
    models = {"a": {"1.0": {"minWorkers": 1, "maxWorkers": 2, "batchSize": 9}}}
    async with Site(tmp_path, models=models) as site:
        site.model("a")
        await site.management.startup.load("a-1.0")
        assert site.inference.startup_model() == "a"
        model = site.catalog.find("a")
        assert (model.min_workers, model.max_workers, model.settings.batch_size) == (1, 2, 9)


async def test_a_latency_target_below_zero_is_refused(site: Site) -> None:
    with pytest.raises(BadRequest, match=r"^Parameter max_latency_ms must be 0 or more .* not -5;"):
        await site.register(site.model(), 0, max_latency=-5)


async def test_a_latency_target_takes_the_place_of_the_wait_with_a_warning(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    await site.register(site.model(yaml="batchPolicy: delay\n"), 0, max_latency=50)
    assert "batchPolicy delay has no effect beside maxLatencyMs=50" in caplog.text
    caplog.clear()
    await site.register(site.model("n", yaml="batchPolicy: delay\nmaxLatencyMs: 50\n"), 0)
    assert "batchPolicy delay has no effect beside maxLatencyMs=50" in caplog.text
    caplog.clear()
    await site.register(site.model("o", yaml="batchPolicy: delay\nmaxLatencyMs: 0\n"), 0)
    assert caplog.text == ""
