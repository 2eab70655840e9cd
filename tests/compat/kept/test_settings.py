"""Kept on purpose: variables and snapshots, and the exit code of the workflow archiver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.core_rig import Site, model_folder
from ts_frontend.config import ConfigError, load_config
from workflow_archiver.arg_parser import ArgParser
from workflow_archiver.workflow_packaging import package_workflow


def left(folder: Path, *lines: str, mar: str = "m-1.0") -> Path:
    """What an earlier run left in logs/config: a version of m, and these settings."""
    saved = {
        "defaultVersion": True,
        "marName": mar,
        **{"minWorkers": 1, "maxWorkers": 1, "batchSize": 1, "maxBatchDelay": 10},
    }
    text = json.dumps({"modelCount": 1, "models": {"m": {"1.0": saved}}})
    path = folder / "logs" / "config" / "20240101000000000-shutdown.cfg"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([*lines, f"model_snapshot={text}"]))
    return path


def test_variables_need_the_files_permission_and_only_true_is_true(tmp_path: Path) -> None:
    """TorchServe read TS_ variables only with enable_envvars_config=true in the file, one of them
    under its Java field's name, and took "yes" for false."""
    (tmp_path / "store").mkdir()
    environ = {"TS_JOB_QUEUE_SIZE": "7", "TS_TOKEN_EXPIRATION_TIME_MIN": "5"}
    for word, size, minutes in (("true", 7, 5.0), ("yes", 100, 60.0)):
        lines = f"model_store=store\nenable_envvars_config={word}\n"
        (tmp_path / "config.properties").write_text(lines)
        config = load_config({}, environ, tmp_path)
        assert (config.job_queue_size, config.token_expiration_min) == (size, minutes)


def test_the_last_snapshot_stands_for_the_whole_file(tmp_path: Path) -> None:
    """TorchServe started from the last file in logs/config instead of ./config.properties."""
    (tmp_path / "store" / "m-1.0").mkdir(parents=True)
    (tmp_path / "config.properties").write_text("model_store=no\nbatch_size=3\n")
    left(tmp_path, "model_store=no", "job_queue_size=7")
    config = load_config({"model_store": "store"}, {}, tmp_path)
    assert (config.job_queue_size, config.batch_size) == (7, None)
    assert config.model_store == tmp_path / "store"
    assert "config.properties is not read" in config.warnings[0]


def test_a_snapshot_without_its_archive_stops_the_start(tmp_path: Path) -> None:
    """TorchServe ended with an InvalidSnapshotException."""
    (tmp_path / "store").mkdir()
    path = left(tmp_path, mar="m.mar")
    with pytest.raises(ConfigError, match=rf"^{path}, line 1: .* m\.mar of m 1\.0\. .* --ncs$"):
        load_config({"model_store": "store"}, {}, tmp_path)


async def test_a_snapshot_goes_before_load_models(tmp_path: Path) -> None:
    """TorchServe ignored --models then, and described the models as not loaded at startup."""
    model_folder(tmp_path / "store")
    left(tmp_path)
    config = load_config({"model_store": "store", "models": ("other.mar",)}, {}, tmp_path)
    assert any("load_models=other.mar is ignored" in warning for warning in config.warnings)
    async with Site(tmp_path, model_snapshot=config.model_snapshot) as site:
        assert config.model_snapshot is not None
        await site.management.startup.restore(config.model_snapshot)
        described = (await site.management.describe("m", None))[0]
        assert described["loadedAtStartup"] is False


def test_a_workflows_export_folder_must_exist(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "spec.yaml").write_text("dag: {}")
    (tmp_path / "f.py").write_text("")
    words = ["--workflow-name", "w", "--spec-file", f"{tmp_path}/spec.yaml"]
    words += ["--handler", f"{tmp_path}/f.py", "--export-path", f"{tmp_path}/absent"]
    args = ArgParser.workflow_archiver_args_parser().parse_args(words)
    with pytest.raises(SystemExit) as caught:
        package_workflow(args, "{}")
    assert caught.value.code == 1
    assert "absent is not a directory" in caplog.text
    assert not (tmp_path / "absent").exists()
