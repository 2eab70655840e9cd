"""A torchserve-py of the demo's own: started, asked and stopped as an operator would, by command.

`demo.py` is the only caller. Everything the server writes stays in one folder, and its ports are
free ones, so that a server that already runs on this machine is not disturbed.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

COMMAND = str(Path(sys.executable).parent / "torchserve-py")
READY_SECONDS = 120
STOP_SECONDS = 30


class DemoFailed(Exception):
    """The demo cannot go on; one line that says why."""


class DemoServer:
    """One server in ``folder``; `start` it, ask it with `call`, `stop` it."""

    def __init__(self, folder: Path, store: Path) -> None:
        self._folder = folder
        self._store = store
        self._ports = _free_ports(5)
        # What sets up some other server (fixed tokens, a settings file) must not reach this one.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("TS_")}
        # The pid file lies in TMPDIR, the key file in the working directory.
        self._environ = inherited | {
            "TMPDIR": str(folder),
            "TEMP": str(folder),
            "LOG_LOCATION": str(folder / "logs"),
            "METRICS_LOCATION": str(folder / "logs"),
        }
        # A proxy from the environment must not sit between us and localhost.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def start(self, models: str) -> None:
        """Run ``torchserve-py --start``; returns when the model has a worker that is ready.

        Raises:
            DemoFailed: the command failed, or no worker was ready within two minutes.
        """
        config = self._folder / "config.properties"
        config.write_text(self._settings())
        start = ["--start", "--ncs", "--ts-config", str(config)]
        self._command(*start, "--model-store", str(self._store), "--models", models)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process() is None:
                raise DemoFailed("the server ended while it started")
            if self._ready(models.partition("=")[0]):
                return
            time.sleep(0.1)
        raise DemoFailed(f"no worker was ready within {READY_SECONDS} seconds")

    def stop(self) -> None:
        """Run ``torchserve-py --stop`` and see that the process is gone.

        Raises:
            DemoFailed: it still runs after half a minute; it is then killed.
        """
        process = self._process()
        if process is None:
            return
        self._command("--stop")
        deadline = time.monotonic() + STOP_SECONDS
        while _runs(process):
            if time.monotonic() > deadline:
                process.kill()
                raise DemoFailed(f"the server did not stop within {STOP_SECONDS} seconds")
            time.sleep(0.05)

    def predict(self, model: str, photo: Path) -> dict[str, float]:
        """Classify ``photo`` over REST: label -> probability, the best first."""
        path = f"/predictions/{model}"
        answer = self._call("inference", "POST", path, photo.read_bytes())
        if not isinstance(answer, dict):
            raise DemoFailed(f"expected labels with probabilities, got {answer!r}")
        return answer

    def manage(self, method: str, path: str) -> Any:
        """A call to the management port, with its key; the parsed JSON answer."""
        return self._call("management", method, path)

    def log_tail(self, lines: int = 40) -> str:
        """The end of what the server printed and logged."""
        files = [self._folder / "server.out", self._folder / "logs" / "ts_log.log"]
        parts = []
        for file in files:
            text = file.read_text(errors="replace") if file.is_file() else "(not written)"
            parts.append("\n".join([f"--- {file.name}", *text.splitlines()[-lines:]]))
        return "\n".join(parts)

    def _settings(self) -> str:
        inference, management, metrics, grpc_inference, grpc_management = self._ports
        return (
            f"inference_address=http://127.0.0.1:{inference}\n"
            f"management_address=http://127.0.0.1:{management}\n"
            f"metrics_address=http://127.0.0.1:{metrics}\n"
            f"grpc_inference_port={grpc_inference}\n"
            f"grpc_management_port={grpc_management}\n"
            "default_workers_per_model=1\n"
        )

    def _command(self, *arguments: str) -> None:
        """Run torchserve-py in the demo's folder; what it and the server print goes to a file."""
        with (self._folder / "server.out").open("ab") as output:
            done = subprocess.run(
                [COMMAND, *arguments],
                cwd=self._folder,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if done.returncode != 0:
            shown = " ".join(["torchserve-py", *arguments])
            raise DemoFailed(f"`{shown}` ended with exit code {done.returncode}")

    def _process(self) -> psutil.Process | None:
        try:
            pid = int((self._folder / ".model_server.pid").read_text())
            process = psutil.Process(pid)
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
            return None
        return process if _runs(process) else None

    def _ready(self, model: str) -> bool:
        try:
            described = self.manage("GET", f"/models/{model}")
        except (DemoFailed, OSError):  # not listening yet, or not registered yet
            return False
        return any(worker["status"] == "READY" for worker in described[0]["workers"])

    def _call(self, port: str, method: str, path: str, body: bytes | None = None) -> Any:
        number = self._ports[0 if port == "inference" else 1]
        key = json.loads((self._folder / "key_file.json").read_text())[port]["key"]
        request = urllib.request.Request(
            f"http://127.0.0.1:{number}{path}",
            data=body,
            method=method,
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"},
        )
        try:
            with self._opener.open(request, timeout=60) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")
            raise DemoFailed(f"{method} {path} was answered {error.code}: {text}") from error


def _runs(process: psutil.Process) -> bool:
    """Whether it is more than a zombie that nobody has waited for."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
