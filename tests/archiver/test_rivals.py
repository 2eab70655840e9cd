"""TorchServe's archivers beside this one are named, with what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ts_archiver.cli import archiver_command, torch_model_archiver_command
from ts_archiver.rivals import rivals
from ts_frontend.server import _warn_of_rivals
from workflow_archiver.workflow_packaging import generate_workflow_archive

CURE = "pip install --force-reinstall --no-deps torchserve-py"


@pytest.fixture(params=["torch-model-archiver", "torch-workflow-archiver-nightly"])
def rival(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A distribution that is installed."""
    name: str = request.param
    folder = tmp_path / "site" / f"{name.replace('-', '_')}-0.12.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.12.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return name


def test_nobody_is_named_where_there_is_none() -> None:
    assert rivals() == []


@pytest.mark.parametrize("command", [archiver_command, torch_model_archiver_command])
def test_the_model_archivers_warn(rival: str, command: object, tmp_path: Path) -> None:
    (tmp_path / "handler.py").write_text("def handle(data, context): return data\n")
    words = ["--model-name", "m", "--version", "1", "--handler", f"{tmp_path}/handler.py"]
    done = CliRunner().invoke(command, [*words, "--export-path", str(tmp_path)])  # type: ignore[arg-type]
    assert done.exit_code == 0
    assert f"Warning: {rival} is installed beside torchserve-py" in done.stderr
    assert CURE in done.stderr


def test_the_workflow_archiver_warns(
    rival: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("spec.yaml", "handler.py"):
        (tmp_path / name).write_text("")
    words = ["--workflow-name", "w", "--spec-file", f"{tmp_path}/spec.yaml"]
    words += ["--handler", f"{tmp_path}/handler.py", "--export-path", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["torch-workflow-archiver", *words])
    generate_workflow_archive()
    assert f"Run `pip uninstall {rival}`, then `{CURE}`." in caplog.text


def test_the_server_warns(rival: str, caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_rivals()
    assert f"{rival} is installed beside torchserve-py" in caplog.text
