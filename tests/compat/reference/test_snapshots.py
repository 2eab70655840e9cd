"""Which snapshot a start goes by (step 3 of §2.1), and what a server writes, when (§8.10).

The real server that is stopped and killed is in tests/e2e/test_restart.py.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.rows import row
from tests.compat.reference.snapshot_rig import (
    entries,
    home,
    model_snapshot,
    put,
    serve,
    start,
    written,
)
from tests.core_rig import model_folder
from tests.fakes import LoadFailed
from ts_frontend.config import load
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.errors import Internal
from ts_frontend.keys import key_table
from ts_frontend.snapshot_store import Folder, snapshot_folder

__all__ = ["home"]  # a fixture


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


def test_the_key_works() -> None:
    assert key_table()["model_snapshot"].no_effect == ""


async def test_close_without_a_start_writes_nothing(home: Path) -> None:
    """A server that is stopped while its models load must not lose those that are still to come."""
    snapshots = Snapshots(start(home, "a=b"), Folder(home / "logs" / "config"), list)
    snapshots.changed()
    await asyncio.sleep(0)
    await snapshots.close()
    assert written(home) == []
