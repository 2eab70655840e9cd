"""Runs one server as a process of its own and ends it with everything it started.

`peers.peer` enters `running(...)` once per server and round; suites ask what its processes use.
"""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

READY_SECONDS = 120
STOP_SECONDS = 30
# A proxy from the environment must not sit between us and localhost.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class NotReady(Exception):
    """A server ended or stayed silent instead of answering; carries its last output."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on right now, all different.

    Below those that the kernel gives to clients: a server that opens many connections as it starts
    might take its own port.
    """
    ports: list[int] = []
    for port in random.sample(range(20_000, 32_000), 500):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise NotReady("no free ports between 20000 and 32000")


def request(
    method: str,
    url: str,
    body: bytes,
    token: str | None,
    content_type: str = "application/octet-stream",
    timeout: float = 30,
) -> tuple[int | None, bytes]:
    """The answer's status and body; None as the status while nobody answers."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    asked = urllib.request.Request(url, data=body or None, headers=headers, method=method)
    if body:
        asked.add_header("Content-Type", content_type)
    try:
        with _OPENER.open(asked, timeout=timeout) as answer:
            return int(answer.status), bytes(answer.read())
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read()
    except (OSError, http.client.HTTPException) as gone:  # URLError is an OSError
        return None, str(gone).encode()


def clean_environ() -> dict[str, str]:
    """Ours without what would set up servers differently from what the benchmark says: TS_*, a
    PYTHONPATH to this checkout, which would put our `ts` into TorchServe, and what forbids Python
    to keep compiled modules, which hits those that are no installed package.
    """
    unwanted = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("TS_") and name not in unwanted
    }


@contextmanager
def running(
    command: list[str], folder: Path, extra: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """The server's process, in a session of its own, writing into ``folder``/output.txt.

    It gets the variables of ``extra`` on top of ours.
    """
    environ = clean_environ()
    logs = str(folder / "logs")
    environ |= {"TMPDIR": str(folder), "TEMP": str(folder)}
    environ |= {"LOG_LOCATION": logs, "METRICS_LOCATION": logs}
    environ |= extra or {}
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
    members = family(process.pid)
    try:
        os.killpg(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    deadline = time.monotonic() + STOP_SECONDS
    while any(map(_alive, members)) and time.monotonic() < deadline:
        process.poll()  # reaps our own child, so that it does not look alive as a zombie
        time.sleep(0.05)
    for member in filter(_alive, members):
        member.kill()
    process.wait()


def family(pid: int) -> list[psutil.Process]:
    """The process and all that descend from it; none once it is gone."""
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


def cpu_seconds(pid: int) -> float:
    """Spent so far by the process and its living descendants, user and system together."""
    spent = 0.0
    for member in family(pid):
        with suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            spent += times.user + times.system
    return spent


def pss(pid: int) -> float:
    """MB that one process uses, shared pages counted in shares (Pss); 0.0 once it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    (line,) = (line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024 / 1e6
