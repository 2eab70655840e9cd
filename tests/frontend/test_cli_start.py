"""Starting in this process: checks, messages, exit codes, pid file."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ts_frontend import cli
from ts_frontend.config import Config, ConfigError

Run = Callable[..., int]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder that is the temp folder as well, with a model store in it."""
    (tmp_path / "store").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("TEMP", "TS_CONFIG_FILE", "LOG_LOCATION", "METRICS_LOCATION"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def install(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    server = ModuleType("ts_frontend.server")
    server.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ts_frontend.server", server)


OPTIONS = {"model_store": "store", "foreground": True}


@pytest.mark.parametrize("code", [0, 5])
def test_foreground_is_the_server(code: int, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pids: list[str] = []
    configs: list[Config] = []

    def run(config: Config, *, on_ready: Callable[[], None]) -> int:
        on_ready()
        configs.append(config)
        pids.append((room / ".model_server.pid").read_text())
        return code

    install(monkeypatch, run)

    assert cli.start(OPTIONS) == code
    assert configs[0].model_store == room / "store"
    assert pids == [str(os.getpid())]
    assert not (room / ".model_server.pid").exists()


@pytest.mark.parametrize(
    ("error", "output"),
    [
        (ConfigError("the cause"), "Invalid configuration: the cause\n"),
        (OSError("port is taken"), "The server can't start: port is taken\n"),
    ],
)
def test_a_server_that_fails(
    error: Exception,
    output: str,
    room: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(config: Config, *, on_ready: Callable[[], None]) -> int:
        raise error

    install(monkeypatch, run)

    assert cli.start(OPTIONS) == 1
    assert capsys.readouterr().out == output
    assert not (room / ".model_server.pid").exists()


@pytest.mark.parametrize(
    ("options", "output"),
    [
        ({}, "Missing mandatory parameter --model-store\n"),
        ({"model_store": "no"}, "--model-store directory not found: no\n"),
        ({"ts_config": "no"}, "--ts-config file not found: no\n"),
    ],
)
def test_the_launchers_words_stand_alone(
    options: dict[str, object], output: str, room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.start(options) == 1
    assert capsys.readouterr().out == output


def test_a_bad_value_is_an_invalid_configuration(
    room: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (room / "config.properties").write_text("model_store=store\njob_queue_size=x\n")

    assert cli.start({}) == 1
    assert capsys.readouterr().out == (
        f"Invalid configuration: {room / 'config.properties'}, line 2: job_queue_size=x: "
        "expected a whole number, at least 1\n"
    )


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("torchserve-0.12.0.dist-info", "torchserve"),
        ("torchserve_nightly-2024.1.1.dist-info", "torchserve-nightly"),
    ],
)
def test_refuses_to_start_beside_torchserve(
    folder: str,
    name: str,
    room: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (room / "site" / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(room / "site"))

    assert cli.start(OPTIONS) == 1
    assert f"pip uninstall {name}`" in capsys.readouterr().out


def test_our_own_distribution_is_no_rival(room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "site" / "torchserve_py-0.1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(str(room / "site"))
    install(monkeypatch, lambda config, *, on_ready: 0)

    assert cli.start(OPTIONS) == 0


def test_an_orphan_pid_file_is_removed(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # No process has a number beyond the kernel's bound of 2**22.
    (room / ".model_server.pid").write_text("4194305")
    install(monkeypatch, lambda config, *, on_ready: 0)

    assert cli.start(OPTIONS) == 0
    assert capsys.readouterr().out == "Removing orphan pid file.\n"


def test_the_own_number_in_the_pid_file_is_no_server(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a container the next server gets the number of the last: PID 1."""
    (room / ".model_server.pid").write_text(str(os.getpid()))
    install(monkeypatch, lambda config, *, on_ready: 0)

    assert cli.start(OPTIONS) == 0
    assert capsys.readouterr().out == ""


def test_a_pid_file_that_cannot_be_written(
    room: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(room / "absent"))

    assert cli.start(OPTIONS) == 1
    assert "can't be written: No such file or directory; set TMPDIR." in capsys.readouterr().out


def test_stop_without_a_server(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.stop(wait=False) == 0
    assert capsys.readouterr().out == "TorchServe is not currently running.\n"


def test_stop_with_an_orphan(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (room / ".model_server.pid").write_text("4194305")

    assert cli.stop(wait=True) == 0
    assert capsys.readouterr().out == (
        "Removing orphan pid file.\nTorchServe is not currently running.\n"
    )
    assert not (room / ".model_server.pid").exists()
