"""What a start makes of a snapshot (§8.10): what it restores, and what stops it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.compat.reference.rows import row
from tests.compat.reference.snapshot_rig import (
    REQUIRED,
    entries,
    home,
    model_snapshot,
    put,
    serve,
    start,
    written,
)
from tests.core_rig import model_folder
from ts_frontend.config import ConfigError

__all__ = ["home"]  # a fixture

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
