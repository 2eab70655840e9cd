"""What a server under test is: how it is installed, given a job and started. One module a peer.

`registry` knows them all; suites enter `serving(...)` once per server and round.
"""

from __future__ import annotations

import json
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from benchmarks.process import READY_SECONDS, NotReady, free_ports, request, running, tail

SERVICES = Path(__file__).resolve().parents[1] / "services"
Work = Literal["echo", "length", "image", "small", "load"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a server is asked to do, the same for every peer."""

    work: Work
    probe: bytes  # a request's body that it must answer with 200 before it counts as ready
    content_type: str
    batch: int = 1
    delay_ms: int = 0  # that a batch may wait to fill; without meaning while `batch` is 1
    workers: int = 1
    threads: int | None = None  # of torch in each worker; None leaves it to the server
    model: Path | None = None  # folder with model.py and weights.pth, of "image" and "small"
    body_limit: int | None = None  # bytes, where the server's own limit is below what is sent
    processes: int = 0  # further ones, where a peer has such a thing: 0 is its default

    def words(self) -> str:
        """The settings that are the same for all peers, for the row."""
        delay = f" / {self.delay_ms} ms" if self.batch > 1 else ""
        workers = "1 worker" if self.workers == 1 else f"{self.workers} workers"
        limit = f", body limit raised to {self.body_limit / 1e6:g} MB" if self.body_limit else ""
        return f"{workers}, batch {self.batch}{delay}{limit}"

    def write(self, folder: Path) -> Path:
        """As ``job.json``, for the service script of a peer."""
        values = {**asdict(self), "probe": None, "model": self.model and str(self.model)}
        path = folder / "job.json"
        path.write_text(json.dumps(values))
        return path


@dataclass(frozen=True, slots=True)
class Server:
    """A server that has answered its first request."""

    url: str  # of predictions
    management: str  # base address, "" where the peer has no such thing
    keys: Mapping[str, str]  # "inference" and "management", where the server wants tokens
    folder: Path
    pid: int
    listening: float  # seconds from its start until its port took a connection
    ready: float  # seconds from its start until the first right answer

    @property
    def token(self) -> str | None:
        """For predictions."""
        return self.keys.get("inference")

    def manage(self, method: str, path: str, timeout: float = 300) -> bytes:
        """Ask the management API; the answer's body.

        Raises:
            NotReady: it refused, or nobody answered.
        """
        token = self.keys.get("management")
        status, body = request(method, self.management + path, b"", token, timeout=timeout)
        if status is None or status >= 400:
            raise NotReady(f"{method} {path}: {status} {body.decode(errors='replace')[:300]}")
        return body


class Peer(ABC):
    """One contestant."""

    name: str
    path = "/"  # of predictions
    warm_up = 2.0  # seconds under load before it is measured
    tokens = False  # writes key_file.json and wants its keys
    management = False  # has the management API of TorchServe, on the second port
    works: tuple[Work, ...] = ("echo", "length", "image", "small")

    @abstractmethod
    def install(self) -> None:
        """Make it runnable on this machine; done once, remembered on disk.

        Raises:
            Missing: what is not there, and the cure.
        """

    @abstractmethod
    def command(self, job: Job, folder: Path, ports: list[int]) -> list[str]:
        """Prepare ``folder`` and say what to run; predictions are on the first of the ports."""

    @abstractmethod
    def version(self) -> str:
        """Of the installed server."""

    def server_process(self, server: Server) -> int:
        """The pid of the server without its workers."""
        return server.pid

    def settings(self, job: Job) -> str:
        """How this peer is set up for ``job``, in words, for the row."""
        return job.words()

    def body(self, job: Job) -> tuple[bytes, str]:
        """What a request carries, and its content type."""
        return job.probe, job.content_type

    def environ(self, job: Job) -> dict[str, str]:
        """Variables that the server gets on top of ours."""
        return {} if job.threads is None else {"OMP_NUM_THREADS": str(job.threads)}

    def variants(self, job: Job) -> tuple[Job, ...]:
        """Set-ups worth trying for ``job``; a suite reports the one that did best."""
        return (job,)

    @contextmanager
    def serving(self, job: Job, folder: Path | None = None) -> Iterator[Server]:
        """The server, started in a fresh folder (or ``folder``) and answering; ended on leaving.

        Raises:
            NotReady: it ended, or gave no right answer within two minutes.
        """
        if folder is None:
            with (
                TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name,
                self.serving(job, Path(name)) as server,
            ):
                yield server
            return
        ports = free_ports(5)
        (folder / "key_file.json").unlink(missing_ok=True)  # of a run before in this folder
        command = self.command(job, folder, ports)
        began = time.monotonic()
        with running(command, folder, self.environ(job)) as process:
            url = f"http://127.0.0.1:{ports[0]}{self.path}"
            management = f"http://127.0.0.1:{ports[1]}" if self.management else ""
            server = Server(url, management, {}, folder, process.pid, 0.0, 0.0)
            deadline = began + READY_SECONDS
            while process.poll() is None and time.monotonic() < deadline:
                server = self._look(server, job, ports[0], began)
                if server.ready:
                    yield server
                    return
                time.sleep(0.01)
            raise NotReady(f"{self.name} does not answer; its last output:\n{tail(folder)}")

    def _look(self, server: Server, job: Job, port: int, began: float) -> Server:
        if not server.listening:
            if not _open(port):
                return server
            server = replace(server, listening=time.monotonic() - began)
        if self.tokens and not server.keys:
            server = replace(server, keys=_keys(server.folder))
            if not server.keys:
                return server
        body, content_type = self.body(job)
        status, _ = request("POST", server.url, body, server.token, content_type)
        if status == 200:
            return replace(server, ready=time.monotonic() - began)
        return server


def _open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _keys(folder: Path) -> dict[str, str]:
    """The keys that a server has written into its folder, or none while it has not."""
    try:
        values = json.loads((folder / "key_file.json").read_text())
        return {name: str(values[name]["key"]) for name in ("inference", "management")}
    except (FileNotFoundError, ValueError, KeyError):  # not written yet, or not to its end
        return {}
