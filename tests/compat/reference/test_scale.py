"""Scale and unregister, row by row (reference §5.3, §5.5)."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.compat.reference.wire import error, pretty
from tests.core_rig import Site, never, until
from tests.e2e.conftest import MARS, Answer, Server, archive, runs
from tests.e2e.conftest import until as eventually

pytestmark = pytest.mark.e2e

PROCESSING = (202, pretty({"status": "Processing worker updates..."}))
NO_MODEL = error(404, "ModelNotFoundException", "Model not found: none")


def no_version(version: str) -> bytes:
    text = f"Model version: {version} does not exist for model: echo"
    return error(404, "ModelVersionNotFoundException", text)


def seen(answer: Answer) -> tuple[int, bytes]:
    return answer.status, answer.body


def scale(server: Server, path: str = "echo", **query: object) -> Answer:
    return server.manage("PUT", f"/models/{path}", **query)


def scaled(text: str) -> tuple[int, bytes]:
    return 200, pretty({"status": text})


def pids(server: Server, path: str = "echo") -> list[int]:
    """Processes of a version's workers, in order."""
    return [worker["pid"] for worker in server.workers(path)]


def two_versions(server: Server, workers: int = 0) -> None:
    assert server.register("echo.mar", initial_workers=workers).status == 200
    assert server.register("echo-2.mar", model_name="echo").status == 200


# §5.3 scale


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        pytest.param("echo", {}, (1, 1), id="5.3 min_worker default"),
        pytest.param("echo", {"min_worker": 2}, (2, 2), id="5.3 max_worker = min_worker"),
        pytest.param("echo", {"min_worker": 1, "max_worker": 3}, (1, 3), id="5.3 max_worker"),
        pytest.param("echo", {"max_worker": 3}, (1, 3), id="5.3 max_worker alone"),
        pytest.param("echo", {"min_worker": 0}, (0, 0), id="5.3 min_worker 0"),
        pytest.param("echo", {"min_worker": "x"}, (1, 1), id="5.3 min_worker no number"),
        pytest.param("echo", {"timeout": 0, "number_gpu": 9}, (1, 1), id="5.3 timeout, number_gpu"),
        pytest.param("echo/2.0", {}, (1, 1), id="5.3 version in the path"),
        pytest.param("echo", {"model_version": "2.0"}, (1, 1), id="5.3 model_version"),
        pytest.param("echo/2.0", {"model_version": "9"}, (1, 1), id="5.3 the path beats it"),
    ],
)
def test_scale_parameters(
    server: Server, path: str, query: dict[str, object], expected: tuple[int, int]
) -> None:
    """[5.3 synchronous default] too: each is answered 202 at once."""
    two_versions(server)
    assert seen(scale(server, path, **query)) == PROCESSING
    version = "2.0" if "2.0" in (path[5:], query.get("model_version")) else "1.0"
    for one in server.manage("GET", "/models/echo/all").json:
        limits = expected if one["modelVersion"] == version else (0, 0)
        assert (one["minWorkers"], one["maxWorkers"]) == limits
    eventually(lambda: server.ready(f"echo/{version}", expected[0]))


@pytest.mark.parametrize(
    ("path", "query", "text"),
    [
        pytest.param(
            "echo", {"min_worker": 2}, "Workers scaled to 2 for model: echo", id="5.3 sync ok"
        ),
        pytest.param(
            "echo/2.0",
            {"min_worker": 1},
            "Workers scaled to 1 for model: echo, version: 2.0",
            id="5.3 sync ok, version",
        ),
        pytest.param(
            "echo",
            {"model_version": "2.0"},
            "Workers scaled to 1 for model: echo, version: 2.0",
            id="5.3 sync ok, model_version",
        ),
        pytest.param(
            "echo", {"min_worker": 0}, "Workers scaled to 0 for model: echo", id="5.3 sync ok, 0"
        ),
    ],
)
def test_scale(server: Server, path: str, query: dict[str, object], text: str) -> None:
    two_versions(server)
    assert seen(scale(server, path, synchronous="TRUE", **query)) == scaled(text)


async def test_scale_partly_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[5.3 sync, not all running] 206: one dies while the other loads."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        await site.register(site.model(), 1)

        async def load(spec: object) -> None:
            site.backend.load = never
            site.backend.workers[0].die(1, None)
            await until(lambda: site.catalog.find("m").slots[0].error is not None)

        site.backend.load = load
        outcome = await site.management.scale("m", None, 2, 2, True)
        assert (outcome.status, outcome.message) == (206, "Workers scaling in progress...")


@pytest.mark.parametrize(
    ("model", "code", "version"),
    [
        pytest.param("syntax", 500, "", id="5.3 sync failure, null"),
        pytest.param("syntax", 500, "1.0", id="5.3 sync failure"),
        pytest.param("memory", 507, "1.0", id="5.3 sync failure, out of memory"),
    ],
)
def test_scale_failure(server: Server, model: str, code: int, version: str) -> None:
    """The model stays, its workers keep retrying."""
    assert server.register(f"{model}.mar").status == 200
    answer = scale(server, f"{model}/{version}", synchronous="true")
    assert (answer.status, answer.json["type"]) == (code, "InternalServerException")
    first = answer.json["message"].partition("\n")[0]
    assert first == f"Failed to start workers for model {model} version: {version or 'null'}"
    (worker,) = server.workers(model)
    eventually(lambda: f"Retry worker: {worker['id']} in 1 seconds." in server.log("ts_log"))


@pytest.mark.parametrize(
    ("path", "query", "code", "body"),
    [
        pytest.param(
            "none",
            {"min_worker": 2, "max_worker": 1},
            400,
            error(400, "BadRequestException", "max_worker cannot be less than min_worker."),
            id="5.3 max<min, first",
        ),
        pytest.param("none", {}, 404, NO_MODEL, id="5.3 unknown model"),
        pytest.param("none/1.0", {}, 404, NO_MODEL, id="5.3 unknown model of a version"),
        pytest.param("echo/3", {}, 404, no_version("3"), id="5.3 unknown version"),
        pytest.param("echo", {"model_version": 3}, 404, no_version("3"), id="5.3 model_version"),
        pytest.param(
            "echo",
            {"min_worker": -1},
            400,
            error(400, "BadRequestException", "min_worker cannot be negative."),
            id="5.3 negative, mended",
        ),
    ],
)
def test_scale_errors(
    server: Server, path: str, query: dict[str, object], code: int, body: bytes
) -> None:
    two_versions(server)
    assert seen(scale(server, path, **query)) == (code, body)


def test_scale_algorithm(server: Server) -> None:
    """[5.3 algorithm] Missing ones start, surplus ones go from the end, between them none does."""
    two_versions(server, 2)
    before = pids(server)
    assert scale(server, min_worker=3, max_worker=4, synchronous="true").status == 200
    three = pids(server)
    assert three[:2] == before
    for least, most in ((1, 5), (3, 3), (0, 3)):  # [min <= current <= max]
        assert scale(server, min_worker=least, max_worker=most, synchronous="true").status == 200
        assert pids(server) == three
    assert scale(server, min_worker=1, max_worker=2, synchronous="true").status == 200
    assert pids(server) == before  # [count > max]: down to max, not to min
    assert scale(server, min_worker=0, synchronous="true").status == 200
    assert pids(server) == []  # [min=0 removes the model's worker list]
    eventually(lambda: not any(map(psutil.pid_exists, three)))


def test_scale_counts_workers_that_fail(server: Server) -> None:
    """[5.3 dead-but-listed workers count as current]"""
    options = {"initial_workers": 2, "synchronous": "false"}
    assert server.register("syntax.mar", **options).status == 202
    ids = [worker["id"] for worker in server.workers("syntax")]
    assert scale(server, "syntax", min_worker=2).status == 202
    assert [worker["id"] for worker in server.workers("syntax")] == ids


# §5.5 unregister


def unregister(server: Server, path: str = "echo", **query: object) -> Answer:
    return server.manage("DELETE", f"/models/{path}", **query)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        pytest.param("echo", {}, id="5.5 ok, default version"),
        pytest.param("echo/1.0", {}, id="5.5 ok, version"),
        pytest.param("echo", {"synchronous": "false", "timeout": 0}, id="5.5 ignored"),
    ],
)
def test_unregister(server: Server, path: str, query: dict[str, object]) -> None:
    """[5.5 workers killed, temp dir deleted, local .mar kept], before the answer."""
    assert server.register("echo.mar", initial_workers=2).status == 200
    before = [psutil.Process(pid) for pid in pids(server)]
    models = server.folder / "tmp" / "models"
    assert len(list(models.glob("*/*"))) == 1
    assert seen(unregister(server, path, **query)) == (
        200,
        pretty({"status": 'Model "echo" unregistered'}),
    )
    assert not any(map(runs, before))
    assert list(models.glob("*")) == []
    assert (server.store / "echo.mar").is_file()
    assert seen(server.manage("GET", "/models/echo")) == (
        404,
        error(404, "ModelNotFoundException", "Model not found: echo"),
    )


@pytest.mark.parametrize(
    ("path", "code", "body"),
    [
        pytest.param("none", 404, NO_MODEL, id="5.5 unknown model"),
        pytest.param("none/1.0", 404, NO_MODEL, id="5.5 unknown model of a version"),
        pytest.param("echo/3", 404, no_version("3"), id="5.5 unknown version"),
        pytest.param(
            "echo",
            403,
            error(
                403,
                "InvalidModelVersionException",
                "Cannot remove default version for model echo",
            ),
            id="5.5 default version while others exist",
        ),
        pytest.param(
            "echo/1.0",
            403,
            error(
                403,
                "InvalidModelVersionException",
                "Cannot remove default version for model echo",
            ),
            id="5.5 default version by its name",
        ),
    ],
)
def test_unregister_errors(server: Server, path: str, code: int, body: bytes) -> None:
    two_versions(server)
    assert seen(unregister(server, path)) == (code, body)


def test_unregister_answers_what_runs(server: Server, pool: ThreadPoolExecutor) -> None:
    """[5.5 workers SIGKILLed], mended: what a worker is at is answered first."""
    assert server.register("slow.mar", model_name="busy", initial_workers=1).status == 200
    running = pool.submit(server.predict, "busy", b"0.3")
    counted = 'ts_inference_requests_total{model_name="busy",'
    eventually(lambda: counted in server.ask(2, "GET", "/metrics").text)
    assert unregister(server, "busy").status == 200
    assert running.result().text == "1"


def test_unregister_resets_loaded_at_startup(tmp_path: Path) -> None:
    """[5.4 loadedAtStartup: reset when any version is unregistered]"""
    server = Server(tmp_path)
    server.prepare(enable_model_api="true", default_workers_per_model=1)
    archive(server.store, "echo", MARS / "echo.py")
    archive(server.store, "echo-2", MARS / "echo.py", version="2.0")
    server.start("--models", "echo.mar")
    try:
        assert server.register("echo-2.mar", model_name="echo", initial_workers=0).status == 200
        for expected in (True, False):
            (body,) = server.manage("GET", "/models/echo").json
            assert body["loadedAtStartup"] is expected
            unregister(server, "echo/2.0")
    finally:
        assert server.stop() == 0
