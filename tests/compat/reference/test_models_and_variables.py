"""What is loaded at the start by table 1.5, and the variables of 1.6.

TS_CONFIG_FILE is in test_command_line; the variables of the worker's own side are with the tests
of handlers.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compat.reference.rows import row
from tests.compat.reference.settings_rig import Load, load
from tests.core_rig import Site, model_folder
from tests.frontend.test_core_store import mar
from ts_frontend.config import ConfigError
from ts_frontend.core.devices import Devices
from ts_frontend.core.nvml import Gpu
from ts_frontend.core.s3 import sign_get

__all__ = ["load"]  # a fixture

# 1.5: --models and load_models


async def loaded(site: Site, load_models: str) -> list[tuple[str, str]]:
    await site.management.startup.load(load_models)
    return [(model.name, model.url) for model in site.catalog.defaults()]


@row("1.5 all")
@pytest.mark.parametrize("word", ["all", "ALL", " All "])
async def test_all(tmp_path: Path, word: str) -> None:
    async with Site(tmp_path) as site:
        mar(tmp_path / "made", "b").rename(site.folder / "b.model")
        mar(tmp_path / "made", "a").rename(site.folder / "a.mar")
        model_folder(site.folder, "c")
        (site.folder / ".hidden.mar").write_bytes(b"")
        (site.folder / "notes.txt").write_text("no archive")
        assert [name for name, _ in await loaded(site, word)] == ["a", "b", "c"]


@row("1.5 all")
async def test_all_counts_only_alone(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        mar(site.folder, "a")
        mar(site.folder, "b")
        assert await loaded(site, "all,a.mar") == [("a", "a.mar")]


@row("1.5 x.mar")
async def test_a_file_of_the_store(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        mar(site.folder, "a")
        assert await loaded(site, "/some/where/a.mar") == [("a", "/some/where/a.mar")]


@row("1.5 name=x.mar")
async def test_a_name_goes_before_the_manifests(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        mar(site.folder, "a")
        assert await loaded(site, "mine=a.mar") == [("mine", "a.mar")]


@row("1.5 URL", "1.5 name=URL")
async def test_a_url_is_downloaded(tmp_path: Path, table_row: str) -> None:
    url = mar(tmp_path / "place", "a").as_uri()
    name = "mine" if "name" in table_row else "a"
    async with Site(tmp_path) as site:
        entry = f"{name}={url}" if "name" in table_row else url
        assert await loaded(site, entry) == [(name, url)]
        assert (site.folder / "a.mar").is_file()
    async with Site(tmp_path / "strict", allowed_urls=("https://.*",)) as site:
        assert await loaded(site, url) == []


@row("1.5 dirname / absolute dir")
async def test_a_folder(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        model_folder(site.folder, "a")
        elsewhere = model_folder(tmp_path / "else", "b")
        names = [name for name, _ in await loaded(site, f"a-1.0,{elsewhere}")]
        assert names == ["a", "b"]


@row("1.5 empty element")
async def test_empty_elements(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        mar(site.folder, "a")
        assert await loaded(site, ",a.mar,,") == [("a", "a.mar")]


@row("1.5 standalone", "1.5 a failing model")
async def test_a_failing_model_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Site(tmp_path) as site:
        mar(site.folder, "a")
        assert await loaded(site, "standalone,a.mar") == [("a", "a.mar")]
    assert "Failed to load model: standalone, Model not found at: standalone" in caplog.text


@row("1.5 no modelName")
async def test_a_name_from_the_file(tmp_path: Path) -> None:
    async with Site(tmp_path, default_service_handler="h.py") as site:
        for name in ("my-model.v2.mar", "_it's"):
            (site.folder / name).mkdir()
        names = [name for name, _ in await loaded(site, "my-model.v2.mar,_it's")]
        assert names == ["_it_s", "my_model_v2"]


# 1.6: variables


@row("1.6 JAVA_HOME", "1.6 SM_TELEMETRY_LOG", "1.6 REALM, DOMAIN, MXNETMODELSERVER_PROGRAM")
def test_variables_without_a_meaning(load: Load, table_row: str) -> None:
    names = table_row.removeprefix("1.6 ").split(", ")
    plain = load()
    assert load(**dict.fromkeys(names, "x")) == plain
    assert plain.warnings == ()


@row("1.6 TEMP")
def test_temp(load: Load, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    assert load(TEMP=str(tmp_path / "t")).temp_dir == tmp_path / "t"


@row("1.6 TMPDIR/TEMP/TMP")
def test_where_the_pid_file_is(tmp_path: Path) -> None:
    code = "from ts_frontend.pidfile import PidFile; print(PidFile().path)"
    for names in (("TMPDIR", "TEMP", "TMP"), ("TEMP", "TMP"), ("TMP",)):
        environ = {"PATH": os.environ["PATH"]}
        for name in names:
            (tmp_path / name).mkdir(exist_ok=True)
            environ[name] = str(tmp_path / name)
        out = subprocess.run(
            [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
        )
        assert out.stdout == f"{tmp_path / names[0]}/.model_server.pid\n"


@row("1.6 LOG_LOCATION", "1.6 METRICS_LOCATION")
def test_where_logs_go(load: Load, tmp_path: Path, table_row: str) -> None:
    name = table_row.split()[1]
    field = name.lower()
    assert getattr(load(), field) == tmp_path / "logs"
    assert getattr(load(**{name: "mine"}), field) == tmp_path / "mine"


@row("1.6 TS_MODEL_SERVER_HOME")
def test_model_server_home(load: Load) -> None:
    (warning,) = load(TS_MODEL_SERVER_HOME="/srv").warnings
    assert "model_server_home: accepted, no effect: no files of TorchServe's" in warning


@row("1.6 TS_OPEN_INFERENCE_PROTOCOL")
def test_open_inference_protocol(load: Load) -> None:
    for line in ("ts_open_inference_protocol=true", ""):
        for value, on in (("oip", True), ("true", False), ("", bool(line))):
            config = load(line, TS_OPEN_INFERENCE_PROTOCOL=value)
            assert config.ts_open_inference_protocol is on


@row("1.6 TS_<FIELD>")
def test_ts_variables_need_the_files_word(load: Load) -> None:
    config = load(TS_BATCH_SIZE="4")
    assert config.batch_size is None
    assert "TS_BATCH_SIZE ignored; to use it, set enable_envvars_config=true" in config.warnings[0]
    assert load("enable_envvars_config=true", TS_BATCH_SIZE="4").batch_size == 4


@row("1.6 AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION")
def test_aws(table_row: str) -> None:
    names = table_row.removeprefix("1.6 ").split(", ")
    environ = dict.fromkeys(names, "x")
    assert "Credential=x/" in sign_get("https://b/k.mar", environ)["authorization"]
    for name in names:
        with pytest.raises(ValueError, match=name):
            sign_get("https://b/k.mar", {**environ, name: ""})


@row("1.6 CUDA_VISIBLE_DEVICES")
def test_visible_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(3)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)
    assert Devices(None, {"CUDA_VISIBLE_DEVICES": "2,0"}).count == 2
    assert Devices(None, {}).count == 3


@row("1.6 PYTHONPATH")
async def test_pythonpath_reaches_workers(tmp_path: Path) -> None:
    async with Site(tmp_path, {"PYTHONPATH": "/mine"}) as site:
        url = site.model()
        await site.register(url)
        spec = site.worker.spec
        assert spec.env["PYTHONPATH"] == "/mine"
        assert url in spec.import_paths


@row("1.6 $$NAME$$")
def test_placeholders(load: Load) -> None:
    assert load("load_models=$$FIRST$$.mar,b.mar", FIRST="a").load_models == "a.mar,b.mar"
    with pytest.raises(ConfigError, match="Invalid Environment Variable FIRST"):
        load("load_models=$$FIRST$$.mar")


@row("1.6 -DTS_DEBUG=true")
def test_debug_is_a_key_and_a_variable(load: Load) -> None:
    assert load("debug=true").debug
    assert load("enable_envvars_config=true", TS_DEBUG="true").debug
