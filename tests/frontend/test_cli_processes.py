"""The command in real processes: detaching, stopping, recognising a server by its pid file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ts_frontend.pidfile import Found, PidFile

# The command with a stand-in for the server: what matters is what surrounds it.
COMMAND = """
import json, os, signal, sys, types
from ts_frontend import cli

def run(config, *, on_ready):
    seen = {
        "heavy": [name for name in ("aiohttp", "uvloop", "asyncio") if name in sys.modules],
        "session": os.getsid(0),
        "stdin": os.readlink("/proc/self/fd/0"),
        "cwd": os.getcwd(),
    }
    with open("seen.json", "w") as file:
        json.dump(seen, file)
    mode = os.environ["MODE"]
    if mode == "die":
        print("the port is taken", flush=True)
        return 7
    if mode == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    print("Model server started.", flush=True)
    signals = {signal.SIGTERM} if mode != "deaf" else {signal.SIGUSR1}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
    on_ready()
    signal.sigwait(signals)
    return 0

server = types.ModuleType("ts_frontend.server")
server.run = run
sys.modules["ts_frontend.server"] = server
lean = types.ModuleType("ts_frontend.http.lean")  # loads aiohttp for the server, behind the fork
lean.import_server = lambda: None
sys.modules["ts_frontend.http.lean"] = lean
cli._STOP_SECONDS = float(os.environ.get("STOP_SECONDS", "60"))
cli.main()
"""


class Shell:
    """Runs the command in a folder of its own that is also its temp folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pid_file = PidFile(folder / ".model_server.pid")
        self.script = folder / "torchserve-py"
        self.script.write_text(COMMAND)
        (folder / "store").mkdir()

    def popen(self, *argv: str, mode: str = "serve", **env: str) -> subprocess.Popen[bytes]:
        variables = {**os.environ, "TMPDIR": str(self.folder), "MODE": mode, **env}
        for name in ("TEMP", "TS_CONFIG_FILE"):
            variables.pop(name, None)
        with (self.folder / "out.txt").open("wb") as out:
            return subprocess.Popen(
                [sys.executable, str(self.script), *argv],
                cwd=self.folder,
                env=variables,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def run(self, *argv: str, mode: str = "serve", **env: str) -> tuple[int, str]:
        """Exit code and output. A file takes the output: a server would keep a pipe open."""
        with self.popen(*argv, mode=mode, **env) as process:
            code = process.wait(20)
        return code, (self.folder / "out.txt").read_text()

    def start(self, mode: str = "serve") -> tuple[int, str]:
        return self.run("--start", "--model-store", "store", mode=mode)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    yield shell
    found, pid = shell.pid_file.find()
    if found is Found.SERVER:
        os.kill(pid, signal.SIGKILL)


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody reaps counts."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_start_detaches_when_ready_and_stop_ends_it(shell: Shell) -> None:
    code, output = shell.start()

    assert (code, output) == (0, "Model server started.\n")
    found, pid = shell.pid_file.find()
    assert found is Found.SERVER
    assert (shell.folder / ".model_server.pid").read_text() == str(pid)
    seen = json.loads((shell.folder / "seen.json").read_text())
    assert seen == {
        "heavy": [],
        "session": pid,
        "stdin": "/dev/null",
        "cwd": str(shell.folder),
    }

    code, output = shell.start()
    running = "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n"
    assert (code, output) == (1, running)
    assert shell.run("--stop", "--foreground") == (0, "")
    assert gone(pid)
    assert not shell.pid_file.path.exists()
    assert shell.run("--stop") == (0, "TorchServe is not currently running.\n")


def test_stop_with_foreground_gives_up(shell: Shell) -> None:
    shell.start(mode="deaf")
    pid = shell.pid_file.find()[1]

    result = shell.run("--stop", "--foreground", STOP_SECONDS="0.1")

    assert result == (1, "Stopping TorchServe took too long.\n")
    assert shell.pid_file.find() == (Found.SERVER, pid)


@pytest.mark.parametrize(("mode", "output"), [("die", "the port is taken\n"), ("killed", "")])
def test_a_failed_start_is_told(mode: str, output: str, shell: Shell) -> None:
    assert shell.start(mode=mode) == (1, output)
    assert shell.pid_file.find()[0] is not Found.SERVER
    assert shell.run("--stop")[1].endswith("TorchServe is not currently running.\n")


def test_foreground_is_one_process_and_leaves_with_the_servers_code(shell: Shell) -> None:
    with shell.popen("--foreground", "--model-store", "store") as process:
        wait_for_server(shell, process)
        assert shell.pid_file.read() == process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not shell.pid_file.path.exists()


def wait_for_server(shell: Shell, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    tick = threading.Event()
    while "started" not in (shell.folder / "out.txt").read_text():
        assert time.monotonic() < deadline
        assert process.poll() is None
        tick.wait(0.01)


def spawn(shell: Shell, *argv: str) -> subprocess.Popen[bytes]:
    """A process with any command line; it ends with its standard input."""
    code = "import sys; sys.stdin.read()"
    script = shell.folder / argv[0]
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, str(script), *argv[1:]], stdin=subprocess.PIPE, cwd=shell.folder
    )


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        (["torchserve-py", "--start"], Found.SERVER),
        (["torchserve", "--foreground"], Found.SERVER),
        (["java", "org.pytorch.serve.ModelServer"], Found.SERVER),
        (["torchserve", "--stop"], Found.OTHER),
        (["editor", "torchserve.md"], Found.OTHER),
    ],
)
def test_what_counts_as_a_server(argv: list[str], found: Found, shell: Shell) -> None:
    with spawn(shell, *argv) as process:
        shell.pid_file.write(process.pid)
        assert shell.pid_file.find() == (found, process.pid)


def test_a_number_that_was_used_again_is_no_server(shell: Shell) -> None:
    with spawn(shell, "torchserve-py", "--start") as process:
        shell.pid_file.write(process.pid)
        before = psutil.Process(process.pid).create_time() - 10
        os.utime(shell.pid_file.path, (before, before))
        assert shell.pid_file.find() == (Found.OTHER, process.pid)


def test_a_dead_process_is_an_orphan(shell: Shell) -> None:
    with spawn(shell, "torchserve-py") as process:
        pass
    shell.pid_file.write(process.pid)

    assert shell.pid_file.find() == (Found.ORPHAN, process.pid)


@pytest.mark.parametrize("text", ["", "abc", "-1", "0"])
def test_a_file_without_a_number(text: str, shell: Shell) -> None:
    shell.pid_file.path.write_text(text)

    assert shell.pid_file.find() == (Found.NOTHING, 0)


def test_a_server_removes_only_its_own_pid_file(shell: Shell) -> None:
    shell.pid_file.write(4711)

    shell.pid_file.remove(4712)
    assert shell.pid_file.read() == 4711
    shell.pid_file.remove(4711)
    assert not shell.pid_file.path.exists()


def test_writing_replaces_a_link_instead_of_following_it(shell: Shell) -> None:
    target = shell.folder / "precious"
    target.write_text("data")
    shell.pid_file.path.symlink_to(target)

    shell.pid_file.write(4711)

    assert target.read_text() == "data"
    assert shell.pid_file.read() == 4711
    assert [p.name for p in shell.folder.iterdir() if p.name.startswith(".model_server.")] == [
        ".model_server.pid"
    ]


def test_ctrl_c_while_starting_ends_the_server(shell: Shell) -> None:
    """The parent waits for a server that never gets ready; the signal must reach both."""
    hanging = COMMAND.replace(
        "    on_ready()\n",
        "    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})\n    signal.pause()\n",
    )
    shell.script.write_text(hanging)
    with shell.popen("--start", "--model-store", "store") as process:
        wait_for_server(shell, process)
        pid = shell.pid_file.read()
        assert pid is not None
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    deadline = time.monotonic() + 10
    while not gone(pid) and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert gone(pid)
