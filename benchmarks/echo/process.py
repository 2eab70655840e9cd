"""Runs one server as a process of its own and ends it with everything it started.

`servers` describes the servers; `run` enters `running(...)` once per server and round.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

READY_SECONDS = 120
STOP_SECONDS = 30
# A proxy from the environment must not sit between us and localhost.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotReady(Exception):
    """A server ended or stayed silent instead of answering; carries its last output."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def post(url: str, body: bytes, token: str | None) -> bytes | None:
    """The answer's body, or None while the server is not there or not ready."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with _OPENER.open(request, timeout=10) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return None


@contextmanager
def running(command: list[str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, in a session of its own, writing into ``folder``/output.txt."""
    # TS_* would set the servers up differently from what the benchmark says.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("TS_")}
    logs = str(folder / "logs")
    environ |= {"TMPDIR": str(folder), "TEMP": str(folder)}
    environ |= {"LOG_LOCATION": logs, "METRICS_LOCATION": logs}
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process)


def tail(folder: Path, lines: int = 30) -> str:
    """The end of what the server wrote."""
    text = (folder / "output.txt").read_text(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the whole group (torchserve's launcher does not pass it on), then SIGKILL."""
    family = _family(process.pid)
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_alive, family)) and time.monotonic() < deadline:
        process.poll()  # reaps our own child, so that it does not look alive as a zombie
        time.sleep(0.05)
    for member in filter(_alive, family):
        member.kill()
    process.wait()


def _family(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
