"""Describe, list, default version, readiness and who may change models, row by row (reference §5.1,
§5.4, §5.6, §5.7, §5.9, §8.12, §8.14)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from tests.compat.reference.wire import error, pretty
from tests.e2e.conftest import MARS, Answer, Server, archive, until

pytestmark = pytest.mark.e2e

NOT_ALLOWED = error(
    405,
    "MethodNotAllowedException",
    "Requested method is not allowed, please refer to API document.",
)
NOT_FOUND = error(
    404,
    "ResourceNotFoundException",
    "Requested resource is not found, please refer to API document.",
)
NO_MODEL = error(404, "ModelNotFoundException", "Model not found: none")
FIELDS = (
    *("modelName", "modelVersion", "modelUrl", "runtime", "minWorkers", "maxWorkers"),
    *("batchSize", "maxBatchDelay", "responseTimeout", "startupTimeout"),
    *("maxRetryTimeoutInSec", "clientTimeoutInMills", "parallelType", "parallelLevel"),
    *("deviceType", "continuousBatching", "useJobTicket", "useVenv", "stateful"),
    *("sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxNumSequence"),
    *("maxSequenceJobQueueSize", "loadedAtStartup", "workers", "jobQueueStatus"),
)
WORKER_FIELDS = ("id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage")


def no_version(version: str, model: str = "echo") -> bytes:
    text = f"Model version: {version} does not exist for model: {model}"
    return error(404, "ModelVersionNotFoundException", text)


def told(text: str) -> bytes:
    """A status object."""
    return pretty({"status": text})


def describe(server: Server, path: str = "echo", **query: object) -> list[dict[str, Any]]:
    answer = server.manage("GET", f"/models/{path}", **query)
    assert answer.status == 200, answer.text
    assert answer.body == pretty(answer.json)
    return list(answer.json)


def two_versions(server: Server) -> None:
    assert server.register("echo.mar").status == 200
    assert server.register("echo-2.mar", model_name="echo").status == 200


# §5.1 routes


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("GET", "/models", None, id="5.1 list"),
        pytest.param("GET", "/models/echo", None, id="5.1 describe"),
        pytest.param("GET", "/models/echo/2.0", None, id="5.1 describe a version"),
        pytest.param("GET", "/models/echo/all", None, id="5.1 describe all"),
        pytest.param("PUT", "/models/echo?min_worker=0", None, id="5.1 scale"),
        pytest.param("PUT", "/models/echo/2.0?min_worker=0", None, id="5.1 scale a version"),
        pytest.param("PUT", "/models/echo/2.0/set-default", None, id="5.1 set default"),
        pytest.param("DELETE", "/models/echo/2.0", None, id="5.1 unregister a version"),
        pytest.param("OPTIONS", "/models/echo", None, id="5.1 OpenAPI"),
        pytest.param("OPTIONS", "/models/echo/2.0", None, id="5.1 OpenAPI of a version"),
        pytest.param("GET", "/v1/models/echo", None, id="5.1 KServe ready"),
        pytest.param("GET", "/models/", None, id="5.1 slash behind it"),
    ],
)
def test_routes(server: Server, method: str, path: str, body: bytes | None) -> None:
    two_versions(server)
    answer = server.ask(1, method, path, body)
    assert answer.status == (202 if method == "PUT" and "min_worker" in path else 200)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("PUT", "/models", id="5.1 other method on /models"),
        pytest.param("DELETE", "/models", id="5.1 DELETE on /models"),
        pytest.param("OPTIONS", "/models", id="5.1 OPTIONS on /models"),
        pytest.param("POST", "/models/echo", id="5.1 other method on a model"),
        pytest.param("PATCH", "/models/echo/1.0", id="5.1 other method on a version"),
        pytest.param("POST", "/models/echo/1.0/set-default", id="5.1 POST set-default"),
        pytest.param("POST", "/v1/models/echo", id="5.1 KServe ready, non-GET"),
        pytest.param("GET", "/", id="5.1 root"),
    ],
)
def test_routes_refuse_methods(server: Server, method: str, path: str) -> None:
    two_versions(server)
    answer = server.ask(1, method, path)
    assert (answer.status, answer.body) == (405, NOT_ALLOWED)


@pytest.mark.parametrize(
    "path",
    [
        *("/model", "/models/echo/1.0/default", "/models/echo/1.0/set-default/x", "/v1/models"),
        *("/v1/models/echo/x", "/ping", "/predictions/echo", "/token/x"),
    ],
)
def test_routes_that_are_not_there(server: Server, path: str) -> None:
    two_versions(server)
    answer = server.ask(1, "GET", path)
    assert (answer.status, answer.body) == (404, NOT_FOUND)


def test_set_default_by_another_method(server: Server) -> None:
    """[5.1 set-default with another method] means the model without a version."""
    two_versions(server)
    (body,) = describe(server, "echo/2.0/set-default")
    assert body["modelVersion"] == "1.0"
    answer = server.ask(1, "DELETE", "/models/echo/2.0/set-default")
    text = "Cannot remove default version for model echo"
    assert answer.body == error(403, "InvalidModelVersionException", text)
    answer = server.ask(1, "OPTIONS", "/models/echo/2.0/set-default")
    assert answer.json["info"]["title"] == "RESTful Management API for: echo"


# §5.4 describe

# By field: what it is without settings, settings of the yaml, what it is with them.
DESCRIBED = [
    ("modelName", "echo", "", "configured"),
    ("modelVersion", "1.0", "", "1.0"),
    ("modelUrl", "echo.mar", "", "configured.mar"),
    ("runtime", "python", "", "python"),
    ("minWorkers", 0, "minWorkers: 1\nmaxWorkers: 2", 1),
    ("maxWorkers", 0, "minWorkers: 1\nmaxWorkers: 2", 2),
    ("batchSize", 1, "batchSize: 3", 3),
    ("maxBatchDelay", 100, "maxBatchDelay: 30", 30),
    ("responseTimeout", 120, "responseTimeout: 30", 30),
    ("startupTimeout", 120, "startupTimeout: 30", 30),
    ("maxRetryTimeoutInSec", 300, "maxRetryTimeoutInSec: 30", 30),
    ("clientTimeoutInMills", 0, "clientTimeoutInMills: 30", 30),
    ("parallelType", "", "", ""),
    ("parallelLevel", 0, "", 0),
    ("deviceType", "cpu", "deviceType: cpu", "cpu"),
    ("continuousBatching", False, "", False),
    ("useJobTicket", False, "", False),
    ("useVenv", False, "", False),
    ("stateful", False, "", False),
    ("sequenceMaxIdleMSec", 0, "", 0),
    ("sequenceTimeoutMSec", 0, "", 0),
    ("maxNumSequence", 0, "", 0),
    ("maxSequenceJobQueueSize", 0, "", 0),
    ("loadedAtStartup", False, "", False),
    (
        "jobQueueStatus",
        {"remainingCapacity": 100, "pendingRequests": 0},
        "jobQueueSize: 7",
        {"remainingCapacity": 7, "pendingRequests": 0},
    ),
]


@pytest.fixture(scope="module")
def _configured(_operated: Server) -> None:
    """An archive with every setting of `DESCRIBED`."""
    lines = dict.fromkeys(line for _, _, yaml, _ in DESCRIBED for line in yaml.splitlines())
    config = _operated.folder / "described.yaml"
    config.write_text("\n".join([*lines, ""]))
    archive(_operated.store, "configured", MARS / "echo.py", "--config-file", str(config))


@pytest.mark.parametrize(
    ("field", "plain", "configured"),
    [
        pytest.param(field, plain, configured, id=f"5.4 {field}")
        for field, plain, _, configured in DESCRIBED
    ],
)
@pytest.mark.usefixtures("_configured")
def test_describe_fields(server: Server, field: str, plain: object, configured: object) -> None:
    assert server.register("echo.mar").status == 200
    assert server.register("configured.mar", synchronous="false").status == 202
    (body,) = describe(server)
    assert (type(body[field]), body[field]) == (type(plain), plain)
    (body,) = describe(server, "configured")
    assert body[field] == configured


def test_describe_order(server: Server) -> None:
    """[5.4 in output order] and an array of one element, or of all versions."""
    two_versions(server)
    assert [tuple(body) for body in describe(server)] == [FIELDS]
    assert describe(server)[0]["workers"] == []
    assert [tuple(body) for body in describe(server, "echo/2.0")] == [FIELDS]
    assert {body["modelVersion"] for body in describe(server, "echo/all")} == {"1.0", "2.0"}


def test_describe_device_ids(server: Server) -> None:
    """[5.4 deviceIds] only if configured and valid; this server has no GPU."""
    config = server.folder / "devices.yaml"
    config.write_text("deviceType: gpu\ndeviceIds: [0]\n")
    archive(server.store, "gpus", MARS / "echo.py", "--config-file", str(config))
    assert server.register("gpus.mar").status == 200
    (body,) = describe(server, "gpus")
    assert "deviceIds" not in body
    assert body["deviceType"] == "cpu"


def test_describe_worker(server: Server) -> None:
    """[5.4 workers] each field of a worker, in order."""
    before = datetime.now(UTC)
    assert server.register("echo.mar", initial_workers=2).status == 200
    (body,) = describe(server)
    assert [tuple(worker) for worker in body["workers"]] == [WORKER_FIELDS] * 2
    first, second = body["workers"]
    assert int(first["id"]) >= 9000
    assert int(second["id"]) == int(first["id"]) + 1
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["startTime"])
    started = datetime.fromisoformat(first["startTime"])
    assert abs((started - before).total_seconds()) < 60
    assert (first["status"], first["gpu"], first["gpuUsage"]) == ("READY", False, "N/A")
    process = psutil.Process(first["pid"])
    assert process in server.family()
    assert first["memoryUsage"] == pytest.approx(process.memory_info().rss, rel=0.2)


def test_describe_queue(server: Server, pool: ThreadPoolExecutor) -> None:
    """[5.4 jobQueueStatus] counts what waits, without what a worker has."""
    assert server.register("slow.mar", initial_workers=1).status == 200
    answers = [pool.submit(server.predict, "slow", b"0.2") for _ in range(3)]
    status = {"remainingCapacity": 98, "pendingRequests": 2}
    until(lambda: describe(server, "slow")[0]["jobQueueStatus"] == status)
    assert [answer.result().status for answer in answers] == [200] * 3
    (body,) = describe(server, "slow")
    assert list(body["jobQueueStatus"]) == ["remainingCapacity", "pendingRequests"]


@pytest.mark.parametrize(
    ("model", "metadata"),
    [
        pytest.param("object", {"b": 1, "a": [2]}, id="5.4 customizedMetadata"),
        pytest.param("list", {}, id="5.4 customizedMetadata, non-object JSON"),
        pytest.param("nothing", None, id="5.4 customizedMetadata, empty"),
    ],
)
def test_describe_customized(server: Server, model: str, metadata: object) -> None:
    assert server.register("about.mar", model_name=model, initial_workers=1).status == 200
    answer = server.manage("GET", f"/models/{model}", customized="true")
    assert answer.headers["content-type"] == "application/json"
    (body,) = answer.json
    expected = FIELDS if metadata is None else (*FIELDS, "customizedMetadata")
    assert tuple(body) == expected
    assert body.get("customizedMetadata") == metadata
    for ignored in ("/all", ""):
        customized = "true" if ignored else "false"
        (body,) = describe(server, model + ignored, customized=customized)
        assert "customizedMetadata" not in body


def test_describe_customized_without_worker(server: Server) -> None:
    """[5.4 no worker]"""
    assert server.register("echo.mar").status == 200
    answer = server.manage("GET", "/models/echo", customized="true")
    text = (
        'Model "echo" has no worker to serve describe request. '
        "Please use scale workers API to add workers."
    )
    assert answer.body == error(503, "ServiceUnavailableException", text)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("none", NO_MODEL, id="5.4 unknown model"),
        pytest.param("none/1.0", NO_MODEL, id="5.4 unknown model of a version"),
        pytest.param("none/all", NO_MODEL, id="5.4 unknown model, all"),
        pytest.param("echo/3", no_version("3"), id="5.4 unknown version"),
        pytest.param("echo/1", no_version("1"), id="8.12 versions compare exactly"),
    ],
)
def test_describe_errors(server: Server, path: str, body: bytes) -> None:
    two_versions(server)
    answer = server.manage("GET", f"/models/{path}")
    assert (answer.status, answer.body) == (404, body)


# §5.6 list


@pytest.mark.parametrize(
    ("query", "names", "token"),
    [
        pytest.param({}, "abcde", None, id="5.6 defaults"),
        pytest.param({"limit": 2}, "ab", "2", id="5.6 limit"),
        pytest.param({"limit": 2, "next_page_token": 2}, "cd", "4", id="5.6 next_page_token"),
        pytest.param({"limit": 2, "next_page_token": 4}, "e", None, id="5.6 last page"),
        pytest.param({"limit": 5}, "abcde", "5", id="5.6 page that ends with the last model"),
        pytest.param({"next_page_token": 5}, "", None, id="5.6 behind the last model"),
        pytest.param({"next_page_token": 99}, "", None, id="5.6 offset beyond the end"),
        pytest.param({"limit": 0}, "", "0", id="5.6 limit 0"),
        pytest.param({"limit": 0, "next_page_token": 3}, "", "3", id="5.6 limit 0, later"),
        pytest.param({"limit": -1}, "abcde", None, id="5.6 limit below 0"),
        pytest.param({"limit": 101}, "abcde", None, id="5.6 limit above 100"),
        pytest.param({"limit": "x"}, "abcde", None, id="5.6 limit no number"),
        pytest.param({"limit": 1, "next_page_token": -3}, "a", "1", id="5.6 negative token"),
        pytest.param({"limit": 1, "next_page_token": "x"}, "a", "1", id="5.6 token no number"),
    ],
)
def test_list(server: Server, query: dict[str, object], names: str, token: str | None) -> None:
    for name in "cabed":
        assert server.register("echo.mar", model_name=name).status == 200
    answer = server.manage("GET", "/models", **query)
    models = [{"modelName": name, "modelUrl": "echo.mar"} for name in names]
    expected = {"models": models} if token is None else {"nextPageToken": token, "models": models}
    assert answer.body == pretty(expected)


def test_list_has_default_versions(server: Server) -> None:
    """[5.6 default version of each model]"""
    two_versions(server)
    assert server.manage("PUT", "/models/echo/2.0/set-default").status == 200
    (model,) = server.manage("GET", "/models").json["models"]
    assert model == {"modelName": "echo", "modelUrl": "echo-2.mar"}


# §5.7 set default, §8.12 versions


def test_set_default(server: Server) -> None:
    """[5.7 200] and [8.12 version-less requests go to the default version]"""
    two_versions(server)
    assert describe(server)[0]["modelVersion"] == "1.0"
    answer = server.manage("PUT", "/models/echo/2.0/set-default")
    text = 'Default version successfully updated for model "echo" to "2.0"'
    assert (answer.status, answer.body) == (200, told(text))
    assert describe(server)[0]["modelVersion"] == "2.0"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param("none/1.0", NO_MODEL, id="5.7 unknown model"),
        pytest.param(
            "echo/3",
            error(
                404,
                "ModelVersionNotFoundException",
                "Model version 3 does not exist for model echo",
            ),
            id="5.7 unknown version",
        ),
    ],
)
def test_set_default_errors(server: Server, path: str, body: bytes) -> None:
    two_versions(server)
    answer = server.manage("PUT", f"/models/{path}/set-default")
    assert (answer.status, answer.body) == (404, body)


def test_versions(server: Server) -> None:
    """[8.12 when the last version goes the model name disappears] and the default is free again."""
    two_versions(server)
    assert server.manage("DELETE", "/models/echo/2.0").status == 200
    assert server.manage("DELETE", "/models/echo/1.0").status == 200
    assert server.manage("GET", "/models").json == {"models": []}
    assert server.register("echo-2.mar", model_name="echo").status == 200
    assert describe(server)[0]["modelVersion"] == "2.0"


# §5.9 KServe ready


def ready(server: Server, name: str) -> Answer:
    return server.manage("GET", f"/v1/models/{name}")


def test_ready(server: Server) -> None:
    """[5.9 at least one worker object exists for the default version]"""
    two_versions(server)
    assert server.manage("PUT", "/models/echo/2.0", synchronous="true").status == 200
    assert ready(server, "echo").body == pretty({"name": "echo", "ready": False})
    assert server.manage("PUT", "/models/echo/2.0/set-default").status == 200
    assert ready(server, "echo").body == pretty({"name": "echo", "ready": True})


def test_ready_with_a_failing_worker(server: Server) -> None:
    """[5.9 worker object] whatever its state."""
    assert server.register("syntax.mar", initial_workers=1, synchronous="false").status == 202
    assert ready(server, "syntax").json == {"name": "syntax", "ready": True}


@pytest.mark.parametrize("name", [pytest.param("echo:x", id="5.9 text before the colon")])
def test_ready_name(server: Server, name: str) -> None:
    two_versions(server)
    assert ready(server, name).json == {"name": "echo", "ready": False}


def test_ready_errors(server: Server) -> None:
    """[5.9 404]"""
    answer = ready(server, "none")
    assert (answer.status, answer.body) == (404, NO_MODEL)


# §8.14 model control mode


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as it comes: the model API is off."""
    server = Server(tmp_path_factory.mktemp("fixed"))
    server.prepare(default_workers_per_model=1)
    archive(server.store, "echo", MARS / "echo.py")
    archive(server.store, "other", MARS / "echo.py")
    server.start("--models", "echo.mar")
    try:
        yield server
    finally:
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("POST", "/models?url=other.mar", id="8.14 register"),
        pytest.param("POST", "/models", id="5.2 model API off comes first"),
        pytest.param("DELETE", "/models/echo", id="8.14 unregister"),
        pytest.param("DELETE", "/models/none", id="8.14 unregister an unknown model"),
        pytest.param("DELETE", "/models/echo/1.0", id="8.14 unregister a version"),
    ],
)
def test_model_api_off(fixed: Server, method: str, path: str) -> None:
    answer = fixed.ask(1, method, path)
    assert (answer.status, answer.body) == (405, NOT_ALLOWED)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        pytest.param("PUT", "/models/echo?min_worker=1&synchronous=false", id="8.14 scale"),
        pytest.param("PUT", "/models/echo/1.0/set-default", id="8.14 set-default"),
        pytest.param("GET", "/models/echo", id="8.14 describe"),
        pytest.param("GET", "/models", id="8.14 list"),
    ],
)
def test_model_api_off_leaves_the_rest(fixed: Server, method: str, path: str) -> None:
    assert fixed.ask(1, method, path).status in (200, 202)


def test_loaded_at_startup(fixed: Server) -> None:
    """[8.14 startup loading unaffected], [5.4 loadedAtStartup], [5.4 workers' id starts "9000"]"""
    (body,) = describe(fixed)
    assert body["loadedAtStartup"] is True
    assert [worker["id"] for worker in body["workers"]] == ["9000"]
