"""A worker's life, row by row (reference §8.2), the long times of it in virtual time."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.compat.reference.wire import pretty
from tests.core_rig import Rig, never, states
from tests.e2e.conftest import MARS, Server, archive
from tests.e2e.conftest import until as eventually
from tests.fakes import LoadFailed, hold, make_request, run_virtual
from ts_frontend.core.slot import State
from ts_frontend.errors import Internal
from ts_worker.backend.base import WorkerSpec

LOGGER = "ts_frontend.core"
# Attempts of a worker that fails at once, with the default maxRetryTimeoutInSec of 300.
ATTEMPTS = [0, 1, 2, 4, 7, 12, 20, 33, 54, 88, 143, 232, 376]


async def refuse(spec: WorkerSpec) -> None:
    raise LoadFailed(500, "ValueError: no weights", "")


def slowly(seconds: float) -> Callable[[WorkerSpec], Awaitable[None]]:
    """A load that takes its time and fails."""

    async def load(spec: WorkerSpec) -> None:
        await asyncio.sleep(seconds)
        await refuse(spec)

    return load


def failing_for(seconds: float) -> Callable[[WorkerSpec], Awaitable[None]]:
    """Loads that fail until this moment."""

    async def load(spec: WorkerSpec) -> None:
        if asyncio.get_running_loop().time() < seconds:
            await refuse(spec)

    return load


# Back-off and the retry window


@pytest.mark.parametrize(
    ("window", "attempts"),
    [
        pytest.param(300, ATTEMPTS, id="8.2 back-off, defaults"),
        pytest.param(0, ATTEMPTS[:1], id="8.2 window 0"),
        pytest.param(1, ATTEMPTS[:2], id="8.2 window 1"),
        pytest.param(4, ATTEMPTS[:4], id="8.2 the window is tested when an attempt fails"),
        pytest.param(5, ATTEMPTS[:5], id="8.2 one last attempt behind the window"),
        pytest.param(
            20_000,
            [*ATTEMPTS, 609, 986, 1596, 2583, 4180, 5777, 7374, 8971, 10568],
            id="8.2 the end of the table repeats",
        ),
    ],
)
def test_retries(window: int, attempts: list[int]) -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            model = rig.add(max_retry_timeout=window)
            rig.supervisor.scale(model, 1, 1)
            await asyncio.sleep(11_000)
            assert rig.backend.start_times == attempts
            assert len(model.slots) == 1  # [stays dead but listed]

    run_virtual(main)


def test_retries_count_from_the_failure() -> None:
    """[8.2 seconds between successive respawn attempts] not from the start of the last one."""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = slowly(10)
            rig.supervisor.scale(rig.add(), 1, 1)
            await asyncio.sleep(60)
            assert rig.backend.start_times == [0, 11, 22, 34, 47]

    run_virtual(main)


def test_retries_begin_anew() -> None:
    """[8.2 index resets after a successful load, timestamp cleared by a successful load]"""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = failing_for(30)
            rig.supervisor.scale(rig.add(), 1, 1)
            await asyncio.sleep(1000)  # up since 33, far beyond the window
            rig.backend.load = failing_for(1010)
            rig.worker.die(1, None)
            await asyncio.sleep(100)
            assert rig.backend.start_times == [*ATTEMPTS[:8], 1001, 1002, 1004, 1007, 1012]

    run_virtual(main)


@pytest.mark.parametrize(
    ("moment", "healthy"),
    [
        pytest.param(299, True, id="8.2 ping in the window"),
        pytest.param(301, False, id="8.2 ping turns 500 at 300 s"),
        pytest.param(1000, False, id="8.2 ping of a dead worker"),
    ],
)
def test_ping(moment: float, healthy: bool) -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = refuse
            rig.supervisor.scale(rig.add(), 1, 1)
            await asyncio.sleep(moment)
            assert rig.inference.healthy() is healthy

    run_virtual(main)


# Limits


@pytest.mark.parametrize("seconds", [pytest.param(5, id="8.2 startupTimeout")])
def test_startup_timeout(seconds: int) -> None:
    """[8.2 model load: stop + retry]"""

    async def main() -> None:
        async with Rig() as rig:
            rig.backend.load = never
            model = rig.add(startup_timeout=seconds)
            change = rig.supervisor.scale(model, 1, 1)
            with pytest.raises(Internal) as caught:
                await rig.supervisor.settle(change, "1.0")
            assert "startupTimeout=5" in caught.value.message
            assert asyncio.get_running_loop().time() == seconds
            await asyncio.sleep(20)
            assert rig.backend.start_times == [0, 6, 12, 19]
            assert rig.backend.killed == 4

    run_virtual(main)


def test_response_timeout(caplog: pytest.LogCaptureFixture) -> None:
    """[8.2 inference response] 500 `Worker died.`, the process is killed, retry."""
    caplog.set_level(logging.INFO, LOGGER)

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(response_timeout=3)
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await rig.inference.predict("m", None, make_request())
            assert caught.value.status == 500
            assert asyncio.get_running_loop().time() == pytest.approx(3)
            await asyncio.sleep(1.5)
            assert states(model) == [State.READY]
            assert rig.backend.start_times == pytest.approx([0, 4])
            assert len(rig.backend.alive) == 1

    run_virtual(main)
    assert "Backend worker did not respond in given time" in caplog.text
    assert "Number or consecutive unsuccessful inference 1" in caplog.text


# Lines that tools look for


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(r"Worker disconnected", id="8.2 Worker disconnected"),
        pytest.param(r"Retry worker: 9000 in 1 seconds\.", id="8.2 Retry worker"),
        pytest.param(
            r"Auto recovery start timestamp: \d{13}$", id="8.2 Auto recovery start timestamp"
        ),
        pytest.param(r"Auto recovery failed again", id="8.2 Auto recovery failed again"),
        pytest.param(
            r"Auto recovery succeeded, reset recoveryStartTS", id="8.2 Auto recovery succeeded"
        ),
    ],
)
def test_log_lines(caplog: pytest.LogCaptureFixture, line: str) -> None:
    caplog.set_level(logging.INFO, LOGGER)

    async def main() -> None:
        async with Rig() as rig:
            await rig.serve()
            rig.worker.die(1, None)
            rig.backend.load = failing_for(3)
            await asyncio.sleep(10)

    run_virtual(main)
    assert any(re.search(line, record.getMessage()) for record in caplog.records)


# Real processes

LOADS = {
    "MemoryError": ("MemoryError('no')", 507, "System out of memory"),
    "RuntimeError with CUDA": ("RuntimeError('CUDA error: no')", 507, "System out of memory"),
    "other RuntimeError": ("RuntimeError('broken')", 500, "RuntimeError: broken"),
    "other exception": ("ValueError('broken')", 500, "ValueError: broken"),
}


@pytest.mark.e2e
@pytest.mark.parametrize("row", [pytest.param(row, id=f"8.2 {row}") for row in LOADS])
def test_load_errors(server: Server, row: str) -> None:
    """The code of a load that fails, with its cause."""
    error, code, cause = LOADS[row]
    handler = server.folder / "loads.py"
    handler.write_text(f"def handle(data, context):\n    raise {error}\n")
    archive(server.store, "loads", handler)
    answer = server.register("loads.mar", initial_workers=1)
    assert (answer.status, answer.json["code"]) == (code, code)
    lines = answer.json["message"].splitlines()
    assert lines[0] == "Failed to start workers for model loads version: 1.0"
    assert cause in lines[1]


@pytest.mark.e2e
def test_process_exit_while_loading(server: Server) -> None:
    """[8.2 worker exits] 500, and told."""
    handler = server.folder / "leaves.py"
    handler.write_text("import os\n\ndef handle(data, context):\n    os._exit(5)\n")
    archive(server.store, "leaves", handler)
    answer = server.register("leaves.mar", initial_workers=1)
    assert (answer.status, answer.json["type"]) == (500, "InternalServerException")
    assert "5" in answer.json["message"].splitlines()[1]


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("command", "code"),
    [
        pytest.param(b"exit", 500, id="8.2 crash"),
        pytest.param(b"segfault", 500, id="8.2 crash by a signal"),
        pytest.param(b"kill", 507, id="8.2 killed"),
    ],
)
def test_crash(server: Server, command: bytes, code: int) -> None:
    """[8.2 after any crash the worker process is respawned] with a new process of the same id."""
    assert server.register("crash.mar", initial_workers=1).status == 200
    (before,) = server.workers("crash")
    answer = server.predict("crash", command)
    assert answer.status == code
    assert answer.body == pretty(
        {"code": code, "type": "InternalServerException", "message": "Worker died."}
    )
    (between,) = server.workers("crash")
    assert between["status"] in ("UNLOADING", "READY")
    eventually(lambda: server.ready("crash"))
    (after,) = server.workers("crash")
    assert (after["id"], after["pid"] != before["pid"]) == (before["id"], True)
    assert server.predict("crash", b"well").body == b"well"


@pytest.mark.e2e
def test_status_while_loading(server: Server) -> None:
    """[5.4 status never LOADING] a worker that loads, or waits for its next attempt."""
    handler = server.folder / "lasts.py"
    handler.write_text("import time\n\ndef handle(data, context):\n    time.sleep(60)\n")
    archive(server.store, "lasts", handler)
    options = {"initial_workers": 1, "synchronous": "false"}
    assert server.register("lasts.mar", **options).status == 202
    assert server.register("syntax.mar", **options).status == 202
    eventually(lambda: server.workers("lasts")[0]["pid"] > 0)
    eventually(lambda: server.workers("syntax")[0]["pid"] == -1)  # [5.4 pid: -1 until known]
    for model in ("lasts", "syntax"):
        assert server.workers(model)[0]["status"] == "UNLOADING"


@pytest.mark.e2e
def test_worker_reads_its_own_archive(server: Server) -> None:
    """[8.9 extracted to <tmpdir>/models/...] which is where a worker runs."""
    archive(server.store, "whoami", MARS / "whoami.py")
    assert server.register("whoami.mar", initial_workers=1).status == 200
    answer = server.predict("whoami").json
    assert answer["path"][0].startswith(str(server.folder / "tmp" / "models"))
