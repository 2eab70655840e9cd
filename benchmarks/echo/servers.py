"""The three servers under test: how each is installed, given the echo handler, and started.

All run with one worker, batch size 1, and their own defaults for logs, access log, metrics and
tokens. `run` starts them one at a time.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import install
from process import READY_SECONDS, NotReady, free_ports, post, running, tail

HERE = Path(__file__).resolve().parent
PROBE = b"are you there?"


@dataclass(frozen=True, slots=True)
class Target:
    """What the load generator needs: the address and, where the server wants one, the token."""

    url: str
    token: str | None


@dataclass(frozen=True, slots=True)
class Server:
    """One contestant. ``command(folder, ports)`` prepares ``folder`` and says what to run."""

    name: str
    path: str  # of the prediction endpoint; it is on the first of the ports
    tokens: bool  # writes key_file.json and wants its inference key
    command: Callable[[Path, list[int]], list[str]]

    @contextmanager
    def serving(self) -> Iterator[Target]:
        """The server, started in a fresh folder and answering; ended on leaving.

        Raises:
            NotReady: it ended, or did not echo within two minutes.
        """
        with TemporaryDirectory(prefix="echo-") as name:
            folder, ports = Path(name), free_ports(5)
            with running(self.command(folder, ports), folder) as process:
                url = f"http://127.0.0.1:{ports[0]}{self.path}"
                yield self._wait(url, folder, lambda: process.poll() is not None)

    def _wait(self, url: str, folder: Path, ended: Callable[[], bool]) -> Target:
        deadline = time.monotonic() + READY_SECONDS
        while not ended() and time.monotonic() < deadline:
            token = inference_key(folder) if self.tokens else None
            if (token or not self.tokens) and post(url, PROBE, token) == PROBE:
                return Target(url, token)
            time.sleep(0.1)
        raise NotReady(f"{self.name} does not answer; its last output:\n{tail(folder)}")


def inference_key(folder: Path) -> str | None:
    """The key that a server has written into its folder, or None while it has not."""
    try:
        return str(json.loads((folder / "key_file.json").read_text())["inference"]["key"])
    except (FileNotFoundError, ValueError):  # not written yet, or not to its end
        return None


def _torchserve_like(archiver: str, server: str) -> Callable[[Path, list[int]], list[str]]:
    """Archive the handler and serve it: ours and TorchServe take the same commands."""

    def command(folder: Path, ports: list[int]) -> list[str]:
        store = folder / "model_store"
        store.mkdir()
        pack = [archiver, "--model-name", "echo", "--version", "1.0"]
        pack += ["--handler", str(HERE / "handler.py"), "--export-path", str(store)]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        config = folder / "config.properties"
        config.write_text(
            f"inference_address=http://127.0.0.1:{ports[0]}\n"
            f"management_address=http://127.0.0.1:{ports[1]}\n"
            f"metrics_address=http://127.0.0.1:{ports[2]}\n"
            f"grpc_inference_port={ports[3]}\n"
            f"grpc_management_port={ports[4]}\n"
            "default_workers_per_model=1\n"
        )
        start = [server, "--start", "--foreground", "--ncs", "--ts-config", str(config)]
        return [*start, "--model-store", str(store), "--models", "echo=echo.mar"]

    return command


def _mosec(python: str) -> Callable[[Path, list[int]], list[str]]:
    def command(folder: Path, ports: list[int]) -> list[str]:
        script = str(HERE / "mosec_echo.py")
        return [python, script, "--address", "127.0.0.1", "--port", str(ports[0])]

    return command


def ours() -> Server:
    """torchserve-py, from the environment that runs this script."""
    folder = install.our_bin()
    command = _torchserve_like(str(folder / "archiver"), str(folder / "torchserve-py"))
    return Server("torchserve-py", "/predictions/echo", True, command)


def torchserve() -> Server:
    """TorchServe 0.12.0, the reference of all ratios."""
    install.require("java", "apt-get install -y openjdk-17-jre-headless")
    folder = install.environment("torchserve", install.TORCHSERVE)
    command = _torchserve_like(str(folder / "torch-model-archiver"), str(folder / "torchserve"))
    return Server("torchserve", "/predictions/echo", True, command)


def mosec() -> Server:
    """mosec: a Rust front with Python workers, the fastest peer of this shape."""
    folder = install.environment("mosec", install.MOSEC)
    return Server("mosec", "/inference", False, _mosec(str(folder / "python")))


SERVERS: dict[str, Callable[[], Server]] = {
    "torchserve-py": ours,
    "torchserve": torchserve,
    "mosec": mosec,
}
