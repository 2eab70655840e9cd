"""The command as an operator uses it: start, stop, wrong use, and what starting costs."""

from __future__ import annotations

import subprocess
import time

import psutil
import pytest

from tests.e2e.conftest import BOUND_BY_MODES, MARS, SCRIPTS, Server, archive, runs, until

pytestmark = pytest.mark.e2e


def run(server: Server, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        server.command(*flags),
        cwd=server.folder,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def detach(server: Server, words: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a command whose server stays behind; a file takes what both say."""
    with open(server.folder / "output.txt", "w") as output:
        return subprocess.run(
            words,
            cwd=server.folder,
            env=server.environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=60,
        )


def test_start_and_stop_in_the_background(make_server):
    server = make_server()
    started = detach(server, server.command("--start"))
    assert started.returncode == 0, server.output
    until(lambda: "Model server started." in server.output)
    pid = int((server.folder / "tmp" / ".model_server.pid").read_text())
    process = psutil.Process(pid)
    assert runs(process)
    again = run(server, "--start")
    assert again.returncode == 1
    assert "TorchServe is already running" in again.stdout
    assert server.ask(0, "GET", "/ping").json == {"status": "Healthy"}
    stopped = run(server, "--stop", "--foreground")
    assert stopped.returncode == 0
    until(lambda: not runs(process))
    assert "TorchServe is not currently running." in run(server, "--stop").stdout


def test_the_start_line_of_many_deployments(make_server):
    server = make_server(
        number_of_netty_threads=4,
        job_queue_size=50,
        enable_envvars_config="true",
        install_py_dep_per_model="true",
        default_workers_per_model=2,
        batch_size=8,
        max_batch_delay=50,
    )
    (server.folder / "model_store").mkdir()
    archive(server.folder / "model_store", "resnet50", MARS / "echo.py")
    line = "--start --ncs --model-store model_store --models resnet50=resnet50.mar"
    words = [str(SCRIPTS / "torchserve-py"), *line.split(), "--ts-config", "config.properties"]
    started = detach(server, words)
    try:
        assert started.returncode == 0, server.output
        server.read_keys()
        until(lambda: server.ready("resnet50", 2))
        body = server.manage("GET", "/models/resnet50").json[0]
        assert (body["batchSize"], body["maxBatchDelay"]) == (8, 50)
        assert (body["minWorkers"], body["jobQueueStatus"]["remainingCapacity"]) == (2, 50)
        assert server.predict("resnet50", b"x").status == 200
        assert "ERROR" not in server.output
        until(lambda: "number_of_netty_threads: accepted, no effect" in server.output)
    finally:
        assert run(server, "--stop", "--foreground").returncode == 0


def test_a_server_without_models_is_small_and_has_no_torch(make_server):
    server = make_server()
    started = time.monotonic()
    server.start()
    print(f"listening after {time.monotonic() - started:.2f} s")
    process = psutil.Process(server.process.pid)
    assert process.memory_info().rss < 100e6
    assert not any("torch" in region.path for region in process.memory_maps())


def test_a_missing_store_is_a_clear_error(make_server):
    server = make_server()
    server.store.rmdir()
    answer = run(server, "--start", "--foreground")
    assert answer.returncode == 1
    assert "--model-store directory not found" in answer.stdout + answer.stderr


def test_what_may_not_be_read_is_named_and_the_server_stays_up(make_server):
    server = make_server()
    server.prefix = BOUND_BY_MODES
    archive(server.store, "locked", MARS / "echo.py").chmod(0)
    server.start("--models", "all")
    until(lambda: f"can't read {server.store}/locked.mar: Permission denied" in server.output)
    assert server.predict("locked").status == 404
    assert server.stop() == 0
    server.store.chmod(0)
    server.start("--models", "all")
    until(lambda: "model store can't be read" in server.output)
    assert server.ask(0, "GET", "/ping").status == 200
    assert server.stop() == 0
    server.store.chmod(0o755)
