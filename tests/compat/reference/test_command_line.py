"""The command line by the tables 1.1, 1.2 and 1.3. What it may load and the variables are in
test_models_and_variables.

Not here: --plugins-path, which comes with plugins, and what SIGTERM does (1.4).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.compat.reference.rows import row
from tests.frontend.test_cli_processes import Shell, gone, shell, spawn
from tests.frontend.test_cli_start import install, room
from ts_frontend import cli
from ts_frontend.config import Config
from ts_frontend.version import __version__

__all__ = ["room", "shell"]  # fixtures

# Beyond the kernel's bound of 2**22: no process has it.
NOBODY = "4194305"


@dataclass
class Run:
    """What one call of the command came to."""

    code: int
    output: str
    config: Config | None  # of the server that was started
    detached: bool


Command = Callable[..., Run]


@pytest.fixture
def command(room: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command with a server that only keeps its configuration."""
    seen: list[Config] = []
    launched: list[bool] = []

    def run(config: Config, *, on_ready: Callable[[], None]) -> int:
        seen.append(config)
        on_ready()
        return 0

    def launch(serve: Callable[[Callable[[], None]], int]) -> int:
        launched.append(True)
        return serve(lambda: None)

    install(monkeypatch, run)
    monkeypatch.setattr(cli, "launch", launch)

    def call(*argv: str) -> Run:
        seen.clear()
        launched.clear()
        result = CliRunner().invoke(cli.command, list(argv))
        return Run(result.exit_code, result.output, seen[0] if seen else None, bool(launched))

    return call


def started(run: Run) -> Config:
    assert (run.code, run.output) == (0, "")
    assert run.config is not None
    return run.config


# 1.1: flags


@row("1.1 -v, --version")
def test_version(command: Command) -> None:
    for flag in ("-v", "--version"):
        run = command(flag)
        assert (run.code, run.output) == (0, f"TorchServe Version is {__version__}\n")
        for other in ("--start", "--stop"):
            assert command(flag, other).code == 2


@row("1.1 --start")
def test_start_is_what_happens_anyway(command: Command) -> None:
    for flags in ((), ("--start",)):
        run = command(*flags, "--model-store", "store")
        assert started(run).model_store == Path.cwd() / "store"
        assert run.detached


@row("1.1 --stop")
def test_stop(command: Command) -> None:
    run = command("--stop")
    assert (run.code, run.output) == (0, "TorchServe is not currently running.\n")
    assert run.config is None


@row("1.1 --ts-config")
def test_ts_config(command: Command, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("flag", "variable"):
        (room / name).write_text(f"model_store=store\nload_models={name}.mar\n")
    assert started(command("--ts-config", "flag")).load_models == "flag.mar"
    monkeypatch.setenv("TS_CONFIG_FILE", "variable")
    assert started(command("--ts-config", "flag")).load_models == "variable.mar"


@row("1.1 --model-store")
def test_model_store(command: Command, room: Path) -> None:
    (room / "other").mkdir()
    (room / "config.properties").write_text("model_store=store\n")
    assert started(command()).model_store == room / "store"
    assert started(command("--model-store", "other")).model_store == room / "other"


@row("1.1 --workflow-store")
def test_workflow_store(command: Command, room: Path) -> None:
    config = started(command("--model-store", "store", "--workflow-store", "store"))
    assert config.workflow_store == room / "store"


@row("1.1 --models")
def test_models(command: Command) -> None:
    run = command("--model-store", "store", "--models", "a.mar", "b=http://h/b.mar?v=1", "c")
    assert started(run).load_models == "a.mar,b=http://h/b.mar?v=1,c"
    assert command("--model-store", "store", "--models").code == 2


@row("1.1 --log-config")
def test_log_config(command: Command, room: Path) -> None:
    (room / "logs.yaml").write_text("version: 1\n")
    (room / "link").symlink_to("logs.yaml")
    config = started(command("--model-store", "store", "--log-config", "link"))
    assert config.log_config == room / "logs.yaml"


@row("1.1 --cpp-log-config")
def test_cpp_log_config(command: Command, room: Path) -> None:
    (room / "cpp").touch()
    config = started(command("--model-store", "store", "--cpp-log-config", "cpp"))
    assert config.cpp_log_config == room / "cpp"
    (warning,) = config.warnings
    assert "cpp_log_config: accepted, no effect: C++ workers are not supported" in warning


@row("1.1 --foreground")
def test_foreground(command: Command) -> None:
    assert not command("--model-store", "store", "--foreground").detached


@row("1.1 --no-config-snapshots, --ncs")
def test_no_config_snapshots(command: Command) -> None:
    assert started(command("--model-store", "store")).snapshots
    for flag in ("--ncs", "--no-config-snapshots"):
        assert not started(command("--model-store", "store", flag)).snapshots


@row("1.1 --disable-token-auth, --dt", "1.1 --enable-model-api")
def test_switches_only_switch_on(command: Command, room: Path, table_row: str) -> None:
    flags = table_row.removeprefix("1.1 ").split(", ")
    key = "enable_model_api" if "model" in table_row else "disable_token_authorization"
    (room / "config.properties").write_text(f"model_store=store\n{key}=true\n")
    assert getattr(started(command()), key)
    (room / "config.properties").write_text("model_store=store\n")
    assert not getattr(started(command()), key)
    for flag in flags:
        assert getattr(started(command(flag)), key)


@row("1.1 -h, --help")
def test_help(command: Command) -> None:
    for flag in ("-h", "--help"):
        run = command(flag)
        assert run.code == 0
        assert "--model-store" in run.output


@row("1.1 prefixes")
def test_prefixes_of_long_options(command: Command, room: Path) -> None:
    config = started(command("--model-s", "store", "--dis", "--for"))
    assert config.model_store == room / "store"
    assert config.disable_token_authorization
    assert "ambiguous option: --mod" in command("--mod", "store").output


# 1.2: the order of checks, and what is said


@row("1.2 step 1")
def test_an_orphan_pid_file(command: Command, room: Path) -> None:
    (room / ".model_server.pid").write_text(NOBODY)
    run = command("--model-store", "store")
    assert (run.code, run.output) == (0, "Removing orphan pid file.\n")


@row("1.2 step 2", "1.2 pid file", "1.2 returns")
def test_a_server_that_runs(shell: Shell) -> None:
    assert shell.start() == (0, "Model server started.\n")
    pid = (shell.folder / ".model_server.pid").read_text()
    assert pid.isdecimal()
    assert not gone(int(pid))
    text = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert shell.start() == (1, text)
    assert shell.run("--stop", "--foreground") == (0, "")


@row("1.2 step 2b")
def test_a_number_that_something_else_has(command: Command, room: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as other:
        (room / ".model_server.pid").write_text(str(other.pid))
        run = command("--model-store", "store")
        assert (run.code, run.output) == (0, "")
        assert command("--stop").output == "TorchServe is not currently running.\n"
        assert other.poll() is None


@row("1.2 step 6")
def test_vmargs(command: Command, room: Path) -> None:
    """TorchServe warned of "non-default JVM parameters"; here it says that they do nothing."""
    (room / "config.properties").write_text("model_store=store\nvmargs=-Xmx1g\n")
    (warning,) = started(command()).warnings
    assert "vmargs: accepted, no effect" in warning


REFUSALS = {
    "1.2 step 3": (("--log-config", "none"), "--log-config file not found: {room}/none"),
    "1.2 step 4": ((), "Invalid temp directory: none, please check TEMP environment variable."),
    "1.2 step 5": (("--ts-config", "none"), "--ts-config file not found: none"),
    "1.2 step 7": (("--model-store", "none"), "--model-store directory not found: none"),
    "1.2 step 8": ((), "Missing mandatory parameter --model-store"),
    "1.2 step 9": (("--workflow-store", "none"), "--workflow-store directory not found: none"),
    "1.2 step 10": (("--cpp-log-config", "none"), "--cpp-log-config file not found: {room}/none"),
}


@row(*REFUSALS)
def test_what_stops_a_start(
    command: Command, room: Path, monkeypatch: pytest.MonkeyPatch, table_row: str
) -> None:
    flags, text = REFUSALS[table_row]
    if table_row == "1.2 step 4":
        monkeypatch.setenv("TEMP", "none")
    if table_row not in ("1.2 step 7", "1.2 step 8"):
        flags = (*flags, "--model-store", "store")
    run = command(*flags)
    assert (run.code, run.output) == (1, text.format(room=room) + "\n")
    assert run.config is None


@row("1.2 step 3", "1.2 step 5", "1.2 step 8")
def test_the_first_trouble_is_the_one_that_is_told(
    command: Command, monkeypatch: pytest.MonkeyPatch, table_row: str
) -> None:
    wrong = ["--log-config", "none", "--ts-config", "none", "--cpp-log-config", "none"]
    skipped = {"1.2 step 3": 0, "1.2 step 5": 2, "1.2 step 8": 4}[table_row]
    expected = REFUSALS[table_row][1].partition("{")[0]
    assert command(*wrong[skipped:]).output.startswith(expected)


@row("1.2 step 11")
def test_java_is_not_looked_for(
    command: Command, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", "/none")
    assert started(command("--model-store", "store")).model_store == room / "store"


@row("1.2 Invalid configuration")
def test_a_bad_setting(command: Command, room: Path) -> None:
    (room / "config.properties").write_text("model_store=store\njob_queue_size=x\n")
    run = command()
    assert run.code == 1
    assert run.output.startswith("Invalid configuration: ")


# 1.3: stop


@row("1.3 no pid")
def test_stop_without_a_server(shell: Shell) -> None:
    for text in (None, "", "abc"):
        if text is not None:
            shell.pid_file.path.write_text(text)
        assert shell.run("--stop") == (0, "TorchServe is not currently running.\n")


@row("1.3 pid valid, no --foreground")
def test_stop_does_not_wait(shell: Shell) -> None:
    shell.start(mode="deaf")
    pid = shell.pid_file.find()[1]
    try:
        assert shell.run("--stop") == (0, "TorchServe has stopped.\n")
        assert not shell.pid_file.path.exists()
        assert not gone(pid)
    finally:
        os.kill(pid, signal.SIGKILL)


@row("1.3 pid valid, --foreground")
def test_stop_waits(shell: Shell) -> None:
    shell.start()
    pid = shell.pid_file.find()[1]
    assert shell.run("--stop", "--foreground") == (0, "")
    assert gone(pid)
    shell.start(mode="deaf")
    code, output = shell.run("--stop", "--foreground", STOP_SECONDS="0.1")
    assert (code, output) == (1, "Stopping TorchServe took too long.\n")


@row("1.3 error talking to process")
def test_a_process_that_is_gone_meanwhile(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with spawn(shell, "torchserve-py", "--start") as process:
        shell.pid_file.write(process.pid)
        monkeypatch.setattr(tempfile, "tempdir", str(shell.folder))

        def fail(*_: object) -> bool:
            raise ProcessLookupError

        monkeypatch.setattr(cli, "_terminate", fail)
        assert cli.stop(wait=False) == 0
    assert capsys.readouterr().out == "TorchServe already stopped.\n"
    assert not shell.pid_file.path.exists()


@row("1.6 TS_CONFIG_FILE")
def test_ts_config_file(command: Command, room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (room / "v").write_text("model_store=store\n")
    monkeypatch.setenv("TS_CONFIG_FILE", "v")
    assert started(command()).source == room / "v"
