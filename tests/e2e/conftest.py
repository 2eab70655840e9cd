"""The real server: the installed command, real sockets, real archives made by the real archiver."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

MARS = Path(__file__).parents[1] / "mars"
SCRIPTS = Path(sys.executable).parent
# Root may read and write everything; without these capabilities it is held to a file's mode.
BOUND_BY_MODES = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)


def until(condition, seconds: float = 30.0):
    """Wait until a condition holds that no event announces; returns its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)
    return value


def runs(process: psutil.Process) -> bool:
    """Whether it has not ended; whoever is its parent may take long to ask for its exit code."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    ports = [sock.getsockname()[1] for sock in sockets]
    for sock in sockets:
        sock.close()
    return ports


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def archive(store: Path, name: str, handler: Path, *flags: str, version: str = "1.0") -> Path:
    """Make an archive with the real command."""
    subprocess.run(
        [
            SCRIPTS / "archiver",
            *("--model-name", name, "--version", version, "--handler", str(handler)),
            *("--export-path", str(store), "--force", *flags),
        ],
        check=True,
    )
    return store / f"{name}.mar"


@dataclass
class Server:
    """One running server with a folder, ports and logs of its own."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(3))
    process: subprocess.Popen | None = None
    keys: dict[str, str] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # of the command, for instance `BOUND_BY_MODES`

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def environment(self) -> dict[str, str]:
        folder = self.folder
        return os.environ | {
            "TMPDIR": str(folder / "tmp"),
            "TEMP": str(folder / "tmp"),
            "LOG_LOCATION": str(folder / "logs"),
            "METRICS_LOCATION": str(folder / "logs"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def prepare(self, **settings: object) -> None:
        for name in ("store", "tmp", "logs"):
            (self.folder / name).mkdir(exist_ok=True)
        lines = {
            "inference_address": f"http://127.0.0.1:{self.ports[0]}",
            "management_address": f"http://127.0.0.1:{self.ports[1]}",
            "metrics_address": f"http://127.0.0.1:{self.ports[2]}",
            **settings,
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        (self.folder / "config.properties").write_text(text)

    def command(self, *flags: str) -> list[str]:
        return [
            *self.prefix,
            str(SCRIPTS / "torchserve-py"),
            *("--model-store", str(self.store), "--ts-config", "config.properties", "--ncs"),
            *flags,
        ]

    def start(self, *flags: str) -> Server:
        output = open(self.folder / "output.txt", "w")  # noqa: SIM115  (the child's, closed below)
        with output:
            self.process = subprocess.Popen(
                self.command("--start", "--foreground", *flags),
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        until(self.started)
        self.read_keys()
        return self

    def read_keys(self) -> None:
        keys = self.folder / "key_file.json"
        if keys.exists():
            self.keys = {kind: key["key"] for kind, key in json.loads(keys.read_text()).items()}

    def started(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.output
        return "Model server started." in self.output

    @property
    def output(self) -> str:
        return (self.folder / "output.txt").read_text()

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def stop(self) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(40)

    def ask(
        self, port: int, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=60)
        try:
            kind = ("inference", "management", "")[port]
            if kind in self.keys:
                headers.setdefault("Authorization", f"Bearer {self.keys[kind]}")
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Answer(response.status, dict(response.getheaders()), response.read())
        finally:
            connection.close()

    def predict(self, model: str, body: bytes | None = b"x", **headers: str) -> Answer:
        return self.ask(0, "POST", f"/predictions/{model}", body, **headers)

    def manage(self, method: str, path: str, **query: object) -> Answer:
        return self.ask(1, method, f"{path}?{urlencode(query)}" if query else path)

    def register(self, url: str, **query: object) -> Answer:
        return self.manage("POST", "/models", url=url, **query)

    def workers(self, model: str) -> list[dict]:
        return self.manage("GET", f"/models/{model}").json[0]["workers"]

    def ready(self, model: str, count: int = 1) -> bool:
        return sum(worker["status"] == "READY" for worker in self.workers(model)) >= count

    def family(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def make_server(tmp_path_factory) -> Iterator:
    """A function that makes a server, stopped at the end of the module."""
    servers: list[Server] = []

    def make(**settings: object) -> Server:
        server = Server(tmp_path_factory.mktemp("server"))
        server.prepare(**settings)
        servers.append(server)
        return server

    yield make
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.stop()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Clients that ask at the same time."""
    with ThreadPoolExecutor(16) as pool:
        yield pool
