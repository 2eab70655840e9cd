"""Snapshots by §8.10 and step 3 of §2.1: what is written, when, and what a start makes of it.

The real server that is stopped and killed is in tests/e2e/test_restart.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.rows import row
from tests.core_rig import Site, model_folder
from tests.fakes import LoadFailed
from ts_frontend.config import Config, ConfigError, load, load_config
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.errors import Internal
from ts_frontend.keys import key_table
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


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The working folder of the server, with a model store."""
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


# 2.1


@row("2.1 last snapshot")
def test_the_last_snapshot_goes_before_the_file_beside(home: Path) -> None:
    old = put(home, "20240101000000000-shutdown.cfg", "model_store=store", "job_queue_size=1")
    new = put(
        home,
        "20240101000000001-startup.cfg",
        *("model_store=store", "job_queue_size=2", "batch_size=3", model_snapshot({})),
    )
    config = start(home, "job_queue_size=4", "max_batch_delay=5")
    assert (config.job_queue_size, config.batch_size, config.max_batch_delay) == (2, 3, None)
    assert config.source == new != old
    assert config.warnings[0].startswith(f"restored from snapshot {new}: ")
    assert f"{home}/config.properties is not read" in config.warnings[0]
    assert "--ncs" in config.warnings[0]


@row("2.1 TS_CONFIG_FILE", "2.1 --ts-config", "2.1 --ncs")
def test_a_named_file_or_ncs_goes_before_the_last_snapshot(home: Path, table_row: str) -> None:
    put(home, "20240101000000000-shutdown.cfg", "model_store=no", model_snapshot({}))
    start_with: dict[str, Any] = {
        "2.1 TS_CONFIG_FILE": {"env": {"TS_CONFIG_FILE": "config.properties"}},
        "2.1 --ts-config": {"ts_config": "config.properties"},
        "2.1 --ncs": {"no_config_snapshots": True},
    }[table_row]
    config = start(home, "job_queue_size=4", **start_with)
    assert (config.job_queue_size, config.restored_from, config.warnings) == (4, None, ())
    assert config.snapshots == (table_row != "2.1 --ncs")


@row("2.1 values and their places")
def test_config_show_tells_which_values_come_from_a_snapshot(home: Path) -> None:
    path = put(home, "20240101000000000-x.cfg", "#", "job_queue_size=2", model_snapshot({}))
    loaded = load({"model_store": "store"}, {}, home)
    assert str(loaded.origins["job_queue_size"]) == f"{path}, line 2"
    assert str(loaded.origins["model_store"]) == "--model-store"


# 8.10, the table


@row("8.10 Directory")
def test_snapshots_are_in_config_of_the_log_folder(home: Path) -> None:
    config = start(home, "a=b", env={"LOG_LOCATION": "elsewhere"})
    assert snapshot_folder(config.log_location) == home / "elsewhere" / "config"
    assert snapshot_folder(start(home).log_location) == home / "logs" / "config"


@row("8.10 File name", "8.10 Written")
async def test_what_is_written_when(home: Path) -> None:
    model_folder(home / "store")
    before = time.strftime("%Y%m%d%H%M%S")
    async with serve(home, start(home, "load_models=m-1.0")) as house:
        management = house.site.management

        async def kinds_after(count: int) -> list[str]:
            await house.settled()
            return [name.partition("-")[2] for name in written(home)[count:]]

        assert await kinds_after(0) == ["startup.cfg"]
        await house.site.register(house.site.model(version="2"), 1, synchronous=False)
        assert await kinds_after(1) == ["snapshot.cfg"]
        await management.scale("m", "2", 2, 2, False)
        assert await kinds_after(2) == ["snapshot.cfg"]
        management.set_default("m", "2")
        assert await kinds_after(3) == ["snapshot.cfg"]
        await management.unregister("m", "1.0")
        assert await kinds_after(4) == ["snapshot.cfg"]
    assert [name.partition("-")[2] for name in written(home)[5:]] == ["shutdown.cfg"]
    assert all(re.fullmatch(r"\d{17}-(startup|snapshot|shutdown)\.cfg", n) for n in written(home))
    assert before <= written(home)[0][:14] <= time.strftime("%Y%m%d%H%M%S")


@row("8.10 Written")
async def test_a_register_call_that_fails_is_taken_back(home: Path) -> None:
    async with serve(home, start(home, "a=b")) as house:
        url = house.site.model()
        house.site.backend.load = _refuse
        with pytest.raises(Internal, match="no weights"):
            await house.site.register(url)
        await house.settled()
        assert json.loads(entries(home, written(home)[-1])["model_snapshot"])["models"] == {}


async def _refuse(_: object) -> None:
    raise LoadFailed(500, "no weights", "")


@row("8.10 Format")
async def test_the_format_is_a_properties_file(home: Path) -> None:
    config = start(home, "# mine", "inference_address : http://127.0.0.1:0", model_store="store")
    async with serve(home, config):
        pass
    text = (home / "logs" / "config" / written(home)[0]).read_text()
    assert re.match(r"#Saving snapshot\n#\w{3} \w{3} \d\d \d\d:\d\d:\d\d \S+ \d{4}\n#", text)
    assert "\ninference_address=http\\://127.0.0.1\\:0\n" in text
    assert '\nmodel_snapshot={\\n  "name"\\: "' in text
    found = entries(home, written(home)[0])
    assert set(found) == {
        *("model_store", "inference_address", "version", "tsConfigFile", "model_snapshot")
    }
    assert found["tsConfigFile"] == str(home / "config.properties")


@row("8.10 Format")
def test_what_comes_from_variables_is_not_written(home: Path) -> None:
    env = {"SECRET": "hunter2", "TS_ENABLE_MODEL_API": "true", "TS_JOB_QUEUE_SIZE": "9"}
    config = start(
        home,
        *("enable_envvars_config=true", "keystore_pass=$$SECRET$$", "job_queue_size=5"),
        env=env,
        disable_token_auth=True,
    )
    assert (config.job_queue_size, config.keystore_pass) == (9, "hunter2")
    assert dict(config.written) == {
        "model_store": "store",
        "enable_envvars_config": "true",
        "keystore_pass": "$$SECRET$$",
        "job_queue_size": "5",
        "disable_token_authorization": "true",
    }


@row("8.10 Same name exists")
async def test_a_file_of_the_same_name_is_not_touched(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe wrote nothing then; here the next millisecond is taken."""
    folder = Folder(home / "logs" / "config")
    tried: list[str] = []
    save = folder.save

    def busy(name: str, text: str) -> None:
        if not tried:  # another server was quicker
            (home / "logs" / "config").mkdir(parents=True)
            (home / "logs" / "config" / name).write_text("other")
        tried.append(name)
        save(name, text)

    monkeypatch.setattr(folder, "save", busy)
    snapshots = Snapshots(start(home, "a=b"), folder, list)
    snapshots.begin()
    await snapshots.close()
    first, second, _ = written(home)
    assert tried[:2] == [first, second]
    assert (home / "logs" / "config" / first).read_text() == "other"


@row("8.10 model_snapshot JSON")
async def test_fields_and_their_order(home: Path) -> None:
    model_folder(home / "store")
    config = start(home, "load_models=m-1.0", 'models={"m": {"1.0": {"minWorkers": 2}}}')
    async with serve(home, config) as house:
        await house.site.register(house.site.model(version="2"), 0, batch_size=8, max_batch_delay=7)
    name = written(home)[-1]
    body = json.loads(entries(home, name)["model_snapshot"])
    assert list(body) == ["name", "modelCount", "created", "models"]
    assert (body["name"], body["modelCount"]) == (name, 2)
    assert abs(body["created"] - time.time() * 1000) < 60_000
    assert list(body["models"]["m"]["1.0"].items()) == [
        ("defaultVersion", True),
        ("marName", "m-1.0"),
        ("minWorkers", 3),
        ("maxWorkers", 3),
        ("batchSize", 1),
        ("maxBatchDelay", 100),
        ("responseTimeout", 120),
        ("startupTimeout", 120),
        ("runtimeType", "python"),
    ]
    second = body["models"]["m"]["2"]
    assert (second["defaultVersion"], second["batchSize"], second["maxBatchDelay"]) == (False, 8, 7)


@row("8.10 model_snapshot JSON")
async def test_a_handler_of_the_register_call_is_kept(home: Path) -> None:
    """A field of its own, which TorchServe does not read; it lost the handler."""
    async with serve(home, start(home, "a=b")) as house:
        await house.site.register(house.site.model(), 0, handler="other.py")
        await house.site.register(house.site.model("n"), 0)
    async with serve(home, start(home)) as house:
        assert house.site.catalog.find("m").launch.handler == "other.py"
    models = json.loads(entries(home, written(home)[-1])["model_snapshot"])["models"]
    assert models["m"]["1.0"]["handler"] == "other.py"
    assert "handler" not in models["n"]["1.0"]


# 8.10, restore


@row("8.10 present in a file", "8.10 present in a file with --ncs")
async def test_model_snapshot_in_any_file_restores(home: Path, table_row: str) -> None:
    model_folder(home / "store")
    line = model_snapshot({"m": {"1.0": {**REQUIRED, "responseTimeout": 60}}})
    config = start(home, line, no_config_snapshots="--ncs" in table_row)
    async with serve(home, config) as house:
        model = house.site.catalog.find("m")
        assert (model.min_workers, model.max_workers) == (1, 5)
        assert model.settings.response_timeout == 60
        assert house.site.catalog.loaded_at_startup("m") is False


@row("8.10 last")
def test_only_names_with_a_time_are_snapshots(home: Path) -> None:
    """TorchServe could not start with another file in the folder."""
    put(home, "20240101000000000-shutdown.cfg", "job_queue_size=3", model_snapshot({}))
    put(home, "saved.cfg", "job_queue_size=4", model_snapshot({}))
    put(home, "20240101000000000-shutdown.cfg.bak", "job_queue_size=5")
    assert start(home, model_store="store").job_queue_size == 3


@row("8.10 archives must exist")
def test_a_missing_archive_stops_the_start(home: Path) -> None:
    models = {"m": {"1.0": REQUIRED, "2": {**REQUIRED, "marName": "gone.mar"}}}
    model_folder(home / "store")
    path = put(home, "20240101000000000-shutdown.cfg", "model_store=store", model_snapshot(models))
    with pytest.raises(ConfigError) as caught:
        start(home)
    assert str(caught.value) == (
        f"{path}, line 2: model_snapshot: not in the model store {home}/store: gone.mar of m 2. "
        "Put it there, or start with --ncs"
    )
    with pytest.raises(ConfigError, match=r"gone.mar of m 2. Put it there, or take it out of"):
        start(home, model_snapshot(models), no_config_snapshots=True)


@row("8.10 modelCount below 1")
async def test_an_empty_snapshot_starts_empty(home: Path) -> None:
    line = model_snapshot({"m": {"1.0": {**REQUIRED, "marName": "gone"}}}, modelCount=0)
    config = start(home, line, "load_models=all")
    model_folder(home / "store")
    assert any("Model snapshot is empty" in warning for warning in config.warnings)
    async with serve(home, config) as house:
        assert list(house.site.catalog) == []
        assert house.site.management.startup.missing() == []


@row("8.10 load_models is ignored")
def test_load_models_is_ignored_with_a_warning(home: Path) -> None:
    line = model_snapshot({})
    config = start(home, line, "load_models=a.mar", no_config_snapshots=True)
    assert any("load_models=a.mar is ignored" in warning for warning in config.warnings)
    put(home, "20240101000000000-shutdown.cfg", "load_models=a.mar", line)
    quiet = start(home, model_store="store")
    assert not any("is ignored" in warning for warning in quiet.warnings)
    loud = start(home, model_store="store", models=("b.mar",))
    assert any("--models: load_models=b.mar is ignored" in one for one in loud.warnings)


@row("8.10 its numbers win")
async def test_the_numbers_win_over_yaml_and_settings(home: Path) -> None:
    yaml = "minWorkers: 4\nmaxWorkers: 4\nbatchSize: 9\nmaxBatchDelay: 9\nresponseTimeout: 9\n"
    model_folder(home / "store", yaml=f"{yaml}startupTimeout: 9\n")
    saved = {**REQUIRED, "responseTimeout": 60, "startupTimeout": 61, "runtimeType": "python3"}
    async with serve(home, start(home, model_snapshot({"m": {"1.0": saved}}))) as house:
        model = house.site.catalog.find("m")
        assert (model.min_workers, model.max_workers, len(model.slots)) == (1, 5, 1)
        assert (model.settings.batch_size, model.settings.max_batch_delay) == (2, 10)
        assert (model.settings.response_timeout, model.settings.startup_timeout) == (60, 61)
        assert model.runtime == "python3"


@row("8.10 missing timeouts", "8.10 missing runtimeType")
async def test_what_may_be_missing(home: Path) -> None:
    model_folder(home / "store", yaml="responseTimeout: 9\nstartupTimeout: 9\n", runtime="python3")
    async with serve(home, start(home, model_snapshot({"m": {"1.0": REQUIRED}}))) as house:
        model = house.site.catalog.find("m")
        assert (model.settings.response_timeout, model.settings.startup_timeout) == (120, 120)
        assert model.runtime == "python"


@row(*(f"8.10 {key} is required" for key in REQUIRED))
def test_what_must_be_there(home: Path, table_row: str) -> None:
    key = table_row.split()[1]
    saved = {name: value for name, value in REQUIRED.items() if name != key}
    with pytest.raises(ConfigError, match=rf"line 2: model_snapshot=.*: m 1\.0: .* for {key}"):
        start(home, model_snapshot({"m": {"1.0": saved}}))


@row("8.10 the first failing model")
async def test_a_failing_model_does_not_keep_the_others_out(home: Path) -> None:
    """TorchServe left out all that came after it; and the next snapshot had lost it."""
    (home / "store" / "junk.mar").write_text("junk")
    model_folder(home / "store")
    junk = {**REQUIRED, "marName": "junk.mar", "minWorkers": 3}
    config = start(home, model_snapshot({"a": {"1.0": junk}, "m": {"1.0": REQUIRED}}))
    async with serve(home, config) as house:
        management = house.site.management
        assert [one.name for one in house.site.catalog] == ["m"]
        assert any(
            "Model a version 1.0 could not be" in one for one in management.startup.missing()
        )
        described = (await management.describe("a", None))[0]
        assert (described["status"], described["modelVersion"]) == ("FAILED", "1.0")
        management.set_default("m", "1.0")
    models = json.loads(entries(home, written(home)[-1])["model_snapshot"])["models"]
    assert models["a"]["1.0"]["minWorkers"] == 3
    assert set(models) == {"a", "m"}


@row("8.10 command line over snapshot")
def test_flags_still_win_and_all_else_stays(home: Path) -> None:
    (home / "other").mkdir()
    put(
        home,
        "20240101000000000-shutdown.cfg",
        *("model_store=store", "enable_model_api=true", "inference_address=http://127.0.0.1:9"),
        model_snapshot({}),
    )
    config = start(home, model_store="other", disable_token_auth=True)
    assert config.model_store == home / "other"
    assert config.disable_token_authorization
    assert config.enable_model_api
    assert config.inference_address.port == 9


# Files of the two servers.


TORCHSERVE = r"""#Saving snapshot
#Tue Jan 30 23:59:59 UTC 2024
inference_address=http\://127.0.0.1\:8080
default_workers_per_model=4
load_models=all
model_snapshot={\n  "name"\: "20240130235959123-shutdown.cfg",\n  "modelCount"\: 1,\n  \
"created"\: 1706659199123,\n  "models"\: {\n    "m"\: {\n      "1.0"\: {\n        \
"defaultVersion"\: true,\n        "marName"\: "m-1.0",\n        "minWorkers"\: 1,\n        \
"maxWorkers"\: 1,\n        "batchSize"\: 1,\n        "maxBatchDelay"\: -10000,\n        \
"responseTimeout"\: 120,\n        "startupTimeout"\: 120,\n        \
"runtimeType"\: "python",\n        "parallelLevel"\: 2\n      }\n    }\n  }\n}
tsConfigFile=config.properties
version=0.12.0
model_store=store
number_of_netty_threads=0
python=/usr/bin/python3
"""


@row("8.10 a snapshot of TorchServe")
async def test_a_snapshot_of_torchserve_is_restored(home: Path) -> None:
    model_folder(home / "store")
    put(home, "20240130235959123-shutdown.cfg", TORCHSERVE)
    config = start(home)
    assert not any("unknown key" in warning for warning in config.warnings)
    async with serve(home, config) as house:
        assert house.site.catalog.find("m").settings.max_batch_delay == 100
    body = json.loads(entries(home, written(home)[-1])["model_snapshot"])
    assert body["models"]["m"]["1.0"]["marName"] == "m-1.0"


@row("8.10 lenient JSON")
async def test_the_json_may_be_loose(home: Path) -> None:
    """As gson takes it: quotes are single or missing, numbers may be texts."""
    model_folder(home / "store", version="1.10")
    line = (
        "model_snapshot={'modelCount': '1', models: {m: {1.10: {defaultVersion: 'true', "
        "marName: m-1.10, minWorkers: 1.0, maxWorkers: '2', batchSize: 3, maxBatchDelay: 4}}}}"
    )
    async with serve(home, start(home, line)) as house:
        model = house.site.catalog.find("m", "1.10")
        assert (model.max_workers, model.settings.batch_size) == (2, 3)


@row("8.10 no JSON")
@pytest.mark.parametrize("text", ["{", "[]", '{"models": []}', '{"models": {"m": 1}}', "x"])
def test_what_is_no_json_stops_the_start(home: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"line 2: model_snapshot=.*: expected"):
        start(home, f"model_snapshot={text}")


def test_the_key_works() -> None:
    assert key_table()["model_snapshot"].no_effect == ""


async def test_close_without_a_start_writes_nothing(home: Path) -> None:
    """A server that is stopped while its models load must not lose those that are still to come."""
    snapshots = Snapshots(start(home, "a=b"), Folder(home / "logs" / "config"), list)
    snapshots.changed()
    await asyncio.sleep(0)
    await snapshots.close()
    assert written(home) == []
