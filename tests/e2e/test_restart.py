"""A server that is stopped, or killed, comes up again as it was; by the real command."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import MARS, SCRIPTS, Server, archive, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SAVED = {
    "defaultVersion": True,
    "marName": "echo.mar",
    "minWorkers": 1,
    "maxWorkers": 5,
    "batchSize": 1,
    "maxBatchDelay": 10,
    "responseTimeout": 120,
}


@dataclass
class Keeper(Server):
    """A server that writes snapshots; the settings are in ./config.properties."""

    def command(self, *flags: str) -> list[str]:
        return [str(SCRIPTS / "torchserve-py"), "--model-store", str(self.store), *flags]

    @property
    def snapshots(self) -> list[str]:
        folder = self.folder / "logs" / "config"
        return sorted(path.name for path in folder.iterdir()) if folder.exists() else []

    @property
    def kinds(self) -> list[str]:
        return [name.partition("-")[2] for name in self.snapshots]

    def versions(self, model: str) -> dict[str, tuple[int, int, int, int]]:
        return {
            one["modelVersion"]: (
                one["minWorkers"],
                one["maxWorkers"],
                one["batchSize"],
                one["responseTimeout"],
            )
            for one in self.manage("GET", f"/models/{model}/all").json
        }

    def default(self, model: str) -> str:
        return self.manage("GET", f"/models/{model}").json[0]["modelVersion"]


@pytest.fixture
def server(tmp_path: Path):
    server = Keeper(tmp_path)
    server.prepare(enable_model_api="true", disable_system_metrics="true")
    yield server
    if server.process is not None and server.process.poll() is None:
        server.stop()


def two_versions(server: Keeper) -> None:
    """Start with one version, register another, scale it and make it the default."""
    archive(server.store, "echo", MARS / "echo.py")
    (server.store / "echo.mar").rename(server.store / "first.mar")
    archive(server.store, "echo", MARS / "echo.py", version="2.0")
    server.start("--models", "first.mar")
    server.register("echo.mar", batch_size=4, response_timeout=30, initial_workers=0)
    server.manage("PUT", "/models/echo/2.0", min_worker=2, max_worker=3, synchronous="true")
    server.manage("PUT", "/models/echo/2.0/set-default")


def test_it_comes_up_as_it_was_after_a_stop_and_after_a_kill(server):
    two_versions(server)
    before = server.versions("echo")
    assert before["2.0"] == (2, 3, 4, 30)
    assert server.stop() == 0
    assert server.kinds[0] == "startup.cfg"
    assert server.kinds[-1] == "shutdown.cfg"

    for end in (signal.SIGKILL, None):
        server.start()
        until(lambda: "restored from snapshot" in server.output)  # log lines come a moment later
        until(lambda: "config.properties is not read" in server.output)
        assert server.versions("echo") == before
        assert server.default("echo") == "2.0"
        described = server.manage("GET", "/models/echo/all").json
        assert {one["loadedAtStartup"] for one in described} == {False}
        until(lambda: server.ask(0, "GET", "/readyz").status == 200)
        assert len(server.workers("echo")) == 2
        assert server.predict("echo", b"again").body == b"again"
        if end is not None:
            server.process.send_signal(end)
            server.process.wait(40)


def test_a_change_is_kept_by_a_killed_server(server):
    two_versions(server)
    until(lambda: server.kinds[-1] == "snapshot.cfg")
    count = len(server.snapshots)
    server.manage("PUT", "/models/echo/2.0", min_worker=0, max_worker=0, synchronous="true")
    until(lambda: len(server.snapshots) > count)
    server.process.kill()
    server.process.wait()
    server.start()
    assert server.versions("echo")["2.0"][:2] == (0, 0)


def test_what_failed_at_the_start_fails_or_is_mended_at_the_next(server):
    archive(server.store, "echo", MARS / "echo.py")
    models = ("--models", "echo.mar", "m=http://user:s3cr3t@127.0.0.1:1/m.mar?s3cr3t")
    for _ in range(2):
        server.start(*models)
        until(lambda: len(json.loads(server.ask(0, "GET", "/readyz").body)["missing"]) == 1)
        answer = server.ask(0, "GET", "/readyz")
        assert answer.status == 503
        assert b"Model m could not be registered; " in answer.body
        assert b"s3cr3t" not in answer.body
        assert server.stop() == 0
        assert "s3cr3t" not in server.output
    server.start("--models", "echo.mar")
    until(lambda: server.ask(0, "GET", "/readyz").status == 200)


def test_without_snapshots_none_is_read_or_written(server):
    two_versions(server)
    assert server.stop() == 0
    before = server.snapshots
    server.start("--ncs")
    assert server.manage("GET", "/models").json == {"models": []}
    assert server.register("echo.mar", initial_workers=0).status == 200
    assert server.stop() == 0
    assert server.snapshots == before


def test_a_missing_archive_stops_the_start(server):
    folder = server.folder / "logs" / "config"
    folder.mkdir()
    snapshot = {"modelCount": 1, "models": {"echo": {"2.0": SAVED}}}
    text = f"model_snapshot={json.dumps(snapshot)}\n"
    (folder / "20240101000000000-shutdown.cfg").write_text(text)
    for command in (("--start", "--foreground"), ("--start",)):
        answer = subprocess.run(
            server.command(*command),
            cwd=server.folder,
            env=server.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert answer.returncode == 1
        assert "echo.mar of echo 2.0. Put it there, or start with --ncs" in answer.stdout
        assert "20240101000000000-shutdown.cfg, line 1: model_snapshot: " in answer.stdout
    assert len(server.snapshots) == 1


def test_a_configuration_of_kserve_restores_its_models(server):
    snapshot = {"name": "startup.cfg", "modelCount": 1, "models": {"echo": {"1.0": SAVED}}}
    server.prepare(model_snapshot=json.dumps(snapshot))
    archive(server.store, "echo", MARS / "echo.py")
    server.start("--ts-config", "config.properties", "--models", "echo.mar", "--ncs")
    until(lambda: server.predict("echo", b"x").status == 200)
    assert server.versions("echo") == {"1.0": (1, 5, 1, 120)}
    until(lambda: "load_models=echo.mar is ignored" in server.output)


LATE = """
import time

class Handler:
    def initialize(self, context):
        time.sleep(60)

    def handle(self, data, context):
        return data
"""


def test_a_stop_ends_registrations_and_keeps_none_of_them(server, pool, tmp_path):
    (tmp_path / "late.py").write_text(LATE)
    for name, file in (("echo", MARS / "echo.py"), ("late", tmp_path / "late.py")):
        archive(server.store, name, file)
    server.start("--models", "echo.mar")
    with socket.create_server(("127.0.0.1", 0)) as web:
        url = f"http://127.0.0.1:{web.getsockname()[1]}/drip.mar"
        calls = [pool.submit(server.register, url)]
        peer, _ = web.accept()
        with peer:
            peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nx")
            calls.append(pool.submit(server.register, "late.mar", initial_workers=1))
            until(lambda: server.manage("GET", "/models/late").status == 200)
            until(lambda: list(server.store.glob(".drip.mar.*.part")))
            started = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - started < 10
    for call in calls:
        assert call.result().status == 503
        assert call.result().json["message"] == (
            "The server is stopping: the model is not registered."
        )
    assert sorted(path.name for path in server.store.iterdir()) == ["echo.mar", "late.mar"]
    last = (server.folder / "logs" / "config" / server.snapshots[-1]).read_text()
    assert server.kinds[-1] == "shutdown.cfg"
    assert "late" not in last
    assert "echo" in last
