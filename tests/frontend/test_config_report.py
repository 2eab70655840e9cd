"""`torchserve-py config --show`: every value, where it was set, and nothing else happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ts_frontend import cli
from ts_frontend.config import Config, load
from ts_frontend.config_report import MASK, as_json, as_text

HIDDEN = ("restored_from", "written", "warnings")
VARIABLES = ("TEMP", "TS_CONFIG_FILE", "LOG_LOCATION", "METRICS_LOCATION")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a model store, and none of the server's variables."""
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("TS_") or name in VARIABLES:
            monkeypatch.delenv(name)
    return tmp_path


def show(*argv: str, **env: str) -> Result:
    return CliRunner(env=env).invoke(cli.config_command, ["--show", *argv])


def rows(output: str) -> dict[str, list[str]]:
    """Name -> value, origin."""
    split = [line.split("  ", 1) for line in output.splitlines()]
    return {name: rest.strip().rsplit("  ", 1) for name, rest in split}


def row(result: Result, name: str) -> tuple[str, str]:
    value, origin = rows(result.stdout)[name]
    return value.strip(), origin


def test_each_source_is_named(cwd: Path) -> None:
    (cwd / "own.cfg").write_text(
        "# comment\nenable_envvars_config=true\njob_queue_size=7\nbatch_size=2\nmodel_store=no\n"
    )
    argv = ("--ts-config", "own.cfg", "--model-store", "store", "--models", "a.mar", "b.mar")

    result = show(*argv, "--dt", TS_BATCH_SIZE="4", LOG_LOCATION="l")

    assert result.exit_code == 0
    file = cwd / "own.cfg"
    assert row(result, "batch_size") == ("4", "environment variable TS_BATCH_SIZE")
    assert row(result, "model_store") == (str(cwd / "store"), "command line --model-store")
    assert row(result, "load_models") == ("a.mar,b.mar", "command line --models")
    assert row(result, "disable_token_authorization") == (
        "true",
        "command line --disable-token-auth",
    )
    assert row(result, "job_queue_size") == ("7", f"{file}, line 3")
    assert row(result, "max_request_size") == ("6553500", "default")
    assert row(result, "inference_address") == ("http://127.0.0.1:8080", "default")
    assert row(result, "batch_policy") == ("eager", "default")
    assert row(result, "source") == (str(file), "command line --ts-config")
    assert row(result, "log_location") == (str(cwd / "l"), "environment variable LOG_LOCATION")
    assert row(result, "metrics_location") == (str(cwd / "logs"), "default")
    assert row(result, "models") == ("unset", "default")


def test_every_setting_has_one_aligned_line(cwd: Path) -> None:
    (cwd / "config.properties").write_text("model_store=store\nvmargs=-a \\n -b\n")

    lines = show().stdout.splitlines()

    names = [line.split()[0] for line in lines]
    assert names == [entry.name for entry in fields(Config) if entry.name not in HIDDEN]
    # A value that is wider than the column, such as a path, moves the origin of its own line only.
    short = [line for line in lines if line.endswith(" default") and str(cwd) not in line]
    assert len({line.rindex("default") for line in short}) == 1
    assert len({len(line) - len(line.split(None, 1)[1]) for line in lines}) == 1


@pytest.mark.parametrize("argv", [(), ("--json",)])
def test_a_secret_is_masked(argv: tuple[str, ...], cwd: Path) -> None:
    (cwd / "config.properties").write_text(
        "model_store=store\nkeystore_pass=hunter2\nload_models=a.mar,https://hunter2@h/b.mar,c.mar\n"
    )

    result = show(*argv)

    assert MASK in result.output
    assert "a.mar,https://h/b.mar,c.mar" in result.output
    assert "hunter2" not in result.output
    assert "changeit" not in show(*argv, "--ncs").output


def test_json(cwd: Path) -> None:
    (cwd / "config.properties").write_text(
        'enable_envvars_config=true\nmodels={"m": {"1.0": {"batchSize": 4}}}\nio_ratio=60\n'
    )
    result = show("--json", "--model-s", "store", TS_DEBUG="false", TS_ALLOWED_URLS="x")

    seen: dict[str, Any] = json.loads(result.stdout)
    settings, file = seen["settings"], str(cwd / "config.properties")
    assert settings["model_store"] == {
        "value": str(cwd / "store"),
        "origin": "flag",
        "name": "--model-store",
    }
    assert settings["models"] == {
        "value": {"m": {"1.0": {"batchSize": 4}}},
        "origin": "file",
        "name": file,
        "line": 2,
    }
    assert settings["debug"] == {"value": False, "origin": "variable", "name": "TS_DEBUG"}
    urls = ["file://.*|http(s)?://.*|s3://.*"]
    assert settings["allowed_urls"] == {"value": urls, "origin": "default"}
    assert settings["snapshots"] == {"value": True, "origin": "default"}
    warned = {warning.split(":")[0] for warning in seen["warnings"]}
    assert warned == {f"{file}, line 3", "environment"}


def test_warnings_go_to_standard_error(cwd: Path) -> None:
    (cwd / "config.properties").write_text("job_queue_sise=1\n")

    result = show()

    assert result.exit_code == 0
    assert "did you mean job_queue_size?" in result.stderr
    assert "to start, give --model-store" in result.stderr
    assert "warning: " not in result.stdout


@pytest.mark.parametrize("argv", [(), ("--json",)])
def test_a_bad_file_is_the_usual_error(argv: tuple[str, ...], cwd: Path) -> None:
    (cwd / "config.properties").write_text("model_store=store\njob_queue_size=x\n")

    result = show(*argv)

    assert (result.exit_code, result.stdout) == (
        1,
        f"Invalid configuration: {cwd / 'config.properties'}, line 2: job_queue_size=x: "
        "expected a whole number, at least 1\n",
    )
    absent = show("--ts-config", "no")
    assert (absent.exit_code, absent.stdout) == (1, "--ts-config file not found: no\n")


@pytest.mark.parametrize("argv", [[], ["--show", "--start"], ["--show", "stray"]])
def test_wrong_usage(argv: list[str]) -> None:
    assert CliRunner().invoke(cli.config_command, argv).exit_code == 2


def test_the_real_command_loads_and_leaves_nothing(cwd: Path) -> None:
    code = (
        "import sys; from ts_frontend import cli\n"
        "sys.argv = ['torchserve-py', 'config', '--show', '--json', '--model-store', 'store']\n"
        "try:\n    cli.main()\n"
        "finally:\n    print(sorted({'aiohttp', 'asyncio', 'torch', 'uvloop'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True
    )

    assert result.stdout.endswith("}\n[]\n")
    assert result.stderr == ""
    assert [path.name for path in cwd.iterdir()] == ["store"]


def test_the_report_is_of_what_a_start_loads(cwd: Path) -> None:
    loaded = load({"model_store": "store"}, {"TS_ENABLE_MODEL_API": "true"}, cwd)

    assert str(loaded.origins["enable_model_api"]) == "environment variable TS_ENABLE_MODEL_API"
    assert set(loaded.origins) == {"enable_model_api", "model_store"}
    assert as_text(loaded).count("\n") + 1 == len(json.loads(as_json(loaded))["settings"])
