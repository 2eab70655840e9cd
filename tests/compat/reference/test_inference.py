"""The inference API by the tables of the reference: listeners 4.1, routes 4.2, ping 4.3, the shape
of errors 4.8 and the errors 4.9.

Not here, since they come with later work: the open inference protocol (4.10, and the rows of 4.2
that need it), job tickets and sequences (8.5, 8.7, with their 503), workflows (/wfpredict).
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.compat.reference.conftest import Ask
from tests.compat.reference.wire import ask, error, pretty
from tests.e2e.conftest import MARS, Server, archive, until
from ts_frontend.errors import ServeError
from ts_frontend.http import arguments  # noqa: F401 - has one of them

pytestmark = pytest.mark.e2e

NOT_FOUND = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."
NO_WORKER = (
    " has no worker to serve inference request. Please use scale workers API to add workers. If "
    "this is a sequence inference, please check if it is closed, or expired; or exceeds "
    "maxSequenceJobQueueSize"
)
FORM = "Content-Type: application/x-www-form-urlencoded"


# 4.2: what a path means. The mirror tells which version answered and what the handler was given.


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "PROPFIND"])
@pytest.mark.parametrize(
    ("path", "version", "explain", "url_path"),
    [
        pytest.param("/predictions/mirror", "1.0", "False", "", id="4.2 predictions model"),
        pytest.param("/predictions/mirror/", "1.0", "False", "", id="4.2 predictions model slash"),
        pytest.param("/predictions/mirror/2.0", "2.0", "False", "", id="4.2 predictions version"),
        pytest.param(
            "/predictions/mirror/2.0/a/b%20c", "2.0", "False", "a/b c", id="4.2 predictions rest"
        ),
        pytest.param("/explanations/mirror", "1.0", "True", "", id="4.2 explanations model"),
        pytest.param(
            "/explanations/mirror/2.0/x", "2.0", "True", "x", id="4.2 explanations version rest"
        ),
        pytest.param("/v1/models/mirror:predict", "1.0", "False", None, id="4.2 v1 models predict"),
        pytest.param("/v1/models/mirror:explain", "1.0", "True", None, id="4.2 v1 models explain"),
        pytest.param("/v2/models/mirror/infer", "1.0", "False", None, id="4.2 v2 models infer"),
        pytest.param("/v2/models/mirror/explain", "1.0", "True", None, id="4.2 v2 models explain"),
        pytest.param("/models/mirror/invoke", "1.0", None, None, id="4.2 models invoke"),
        pytest.param("/mirror/predict", "1.0", None, None, id="4.2 legacy predict"),
        pytest.param("/mirror/2.0/predict", "2.0", None, None, id="4.2 legacy version predict"),
        pytest.param("/invocations?model_name=mirror", "1.0", None, None, id="4.2 invocations"),
    ],
)
def test_routes(
    inference: Ask, path: str, method: str, version: str, explain: str | None, url_path: str | None
) -> None:
    """The method does not matter, the version and the marks for the handler are the path's."""
    reply = inference(method, path, b"x")
    assert reply.status == 200
    seen = reply.json
    assert seen["version"] == version
    assert seen["headers"].get("explain") == explain
    assert seen["headers"].get("url_path") == url_path
    assert seen["row"]["body"] == ["bytearray", "x"]


@pytest.mark.parametrize("path", ["/", "/api-description"])
def test_a_listener_describes_itself(inference: Ask, path: str) -> None:
    """4.2 OPTIONS / and /api-description of any method."""
    for method in ("OPTIONS",) if path == "/" else ("OPTIONS", "GET", "POST", "DELETE"):
        reply = inference(method, path)
        assert (reply.status, reply.header("content-type")) == (200, "application/json")
        assert list(reply.json) == ["openapi", "info", "paths"]


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/predictions/mirror", id="4.2 OPTIONS predictions"),
        pytest.param("/predictions/mirror/2.0", id="4.2 OPTIONS predictions version"),
        pytest.param("/predictions/mirror/2.0/more", id="4.2 OPTIONS predictions rest"),
    ],
)
def test_options_describe_a_model_without_asking_it(inference: Ask, path: str) -> None:
    reply = inference("OPTIONS", path)
    assert reply.status == 200
    assert reply.json["info"]["title"] == "RESTful API for: mirror"
    assert "row" not in reply.json


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/predictions", id="4.2 predictions alone"),
        pytest.param("/explanations/", id="4.2 explanations alone"),
        pytest.param("/invocations/mirror", id="4.2 invocations more"),
        pytest.param("/models/mirror/1.0", id="4.2 models a b"),
        pytest.param("/models/mirror", id="4.2 models a"),
        pytest.param("/models", id="4.2 no GET models here"),
        pytest.param("/metrics", id="4.2 no metrics here"),
        pytest.param("/v1/models/mirror", id="4.2 no v1 ready here"),
        pytest.param("/v1/models/mirror/2.0:predict", id="4.2 v1 five segments"),
        pytest.param("/v2/models/mirror/2.0/infer", id="4.2 v2 six segments"),
        pytest.param("/v2", id="4.2 v2 without the open inference protocol"),
        pytest.param("/v2/health/live", id="4.2 v2 live without it"),
        pytest.param("/v2/health/ready", id="4.2 v2 ready without it"),
        pytest.param("/a/b/c/predict", id="4.2 legacy five segments"),
        pytest.param("/Predictions/mirror", id="4.2 case counts"),
        pytest.param("/nowhere", id="4.9 unknown path"),
    ],
)
def test_not_found(inference: Ask, path: str) -> None:
    reply = inference("POST", path, b"x")
    assert (reply.line, reply.body) == (
        "HTTP/1.1 404 Not Found",
        error(404, "ResourceNotFoundException", NOT_FOUND),
    )


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_the_root_by_another_method(inference: Ask, method: str) -> None:
    """4.2 any other method on /, 4.9 wrong method on /."""
    reply = inference(method, "/")
    assert (reply.line, reply.body) == (
        "HTTP/1.1 405 Method Not Allowed",
        error(405, "MethodNotAllowedException", NOT_ALLOWED),
    )


@pytest.mark.parametrize(
    ("path", "body", "header"),
    [
        pytest.param("/invocations?model_name=mirror", b"", "X: y", id="4.2 by the query"),
        pytest.param("/invocations", b"model_name=mirror&a=1", FORM, id="4.2 by a form field"),
        pytest.param(
            "/invocations?model_name=mirror&model_name=idle", b"", "X: y", id="4.2 the first counts"
        ),
    ],
)
def test_invocations_finds_its_model(inference: Ask, path: str, body: bytes, header: str) -> None:
    assert inference("POST", path, body, header).status == 200


def test_invocations_means_the_only_startup_model(shared: Server) -> None:
    """4.2 invocations: else the startup model if exactly one was loaded at startup."""
    token = f"Authorization: Bearer {shared.keys['inference']}"
    reply = ask(shared.ports[0], "POST", "/invocations", b"x", token)
    assert reply.json["row"] == {"body": ["bytearray", "x"]}


# 4.1: one port for everything


def test_chains_on_one_port(shared: Server) -> None:
    """4.1 ALL. TorchServe lost /models/{name}/{version} to its inference handler there, and with
    tokens all of management: both are mended."""
    tokens = {kind: f"Authorization: Bearer {key}" for kind, key in shared.keys.items()}
    for path, kind in (
        ("/predictions/mirror", "inference"),
        ("/models/mirror/invoke", "inference"),
        ("/models", "management"),
        ("/models/mirror", "management"),
        ("/models/mirror/1.0", "management"),
        ("/v1/models/mirror", "management"),
    ):
        for given, token in tokens.items():
            expected = 200 if given == kind else 400
            assert ask(shared.ports[0], "GET", path, None, token).status == expected, path
    assert ask(shared.ports[0], "GET", "/metrics").status == 200
    listed = ask(shared.ports[0], "OPTIONS", "/").json["paths"]
    assert {"/predictions/{model_name}", "/models", "/metrics"} <= set(listed)


@pytest.mark.parametrize(
    ("listener", "path", "status"),
    [
        pytest.param(1, "/predictions/mirror", 404, id="4.1 management has no predictions"),
        pytest.param(1, "/metrics", 404, id="4.1 management has no metrics"),
        pytest.param(1, "/ping", 404, id="4.1 management has no ping"),
        pytest.param(2, "/predictions/mirror", 404, id="4.1 metrics has no predictions"),
        pytest.param(2, "/models", 404, id="4.1 metrics has no models"),
        pytest.param(1, "/api-description", 200, id="4.1 management describes itself"),
        pytest.param(2, "/api-description", 200, id="4.1 metrics describes itself"),
        pytest.param(2, "/metrics", 200, id="4.1 metrics"),
    ],
)
def test_each_port_has_its_own(plain: Server, listener: int, path: str, status: int) -> None:
    assert ask(plain.ports[listener], "GET", path).status == status


# 4.3: health


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/ping/anything"])
def test_ping_healthy(inference: Ask, path: str) -> None:
    """4.3 all healthy, 4.2 /ping/anything: of any method."""
    for method in ("GET", "POST"):
        reply = inference(method, path)
        assert (reply.line, reply.body) == ("HTTP/1.1 200 OK", pretty({"status": "Healthy"}))
        assert reply.header("content-type") == "application/json"


def test_ping_unhealthy(plain: Server, inference: Ask) -> None:
    """4.3 otherwise: with a worker that is given up at once, since its retry window is 0 s."""
    yaml = plain.folder / "frail.yaml"
    yaml.write_text("maxRetryTimeoutInSec: 0\n")
    archive(plain.store, "frail", MARS / "crash.py", "--config-file", str(yaml))
    assert plain.register("frail.mar", initial_workers=1).status == 200
    try:
        assert inference("POST", "/predictions/frail", b"exit").status == 500
        until(lambda: inference("GET", "/ping").status == 500)
        reply = inference("GET", "/ping")
        assert reply.line == "HTTP/1.1 500 Internal Server Error"
        assert reply.body == pretty({"status": "Unhealthy"})
    finally:
        assert plain.manage("DELETE", "/models/frail").status == 200
    assert inference("GET", "/ping").status == 200


def test_ping_needs_no_token(shared: Server) -> None:
    """4.3 TorchServe wanted the inference token here: mended."""
    assert ask(shared.ports[0], "GET", "/ping").status == 200


# 4.9: errors


@pytest.mark.parametrize(
    ("path", "status", "type", "message"),
    [
        pytest.param(
            *("/predictions/foo", 404, "ModelNotFoundException", "Model not found: foo"),
            id="4.9 unknown model",
        ),
        pytest.param(
            *("/predictions/f%C3%BC%3Cb%3E", 404, "ModelNotFoundException"),
            "Model not found: fü<b>",
            id="4.9 unknown model, not escaped",
        ),
        pytest.param(
            *("/v2/models/foo/infer", 404, "ModelNotFoundException", "Model not found: foo"),
            id="4.9 unknown model of v2",
        ),
        pytest.param(
            *("/predictions/mirror/9", 404, "ModelVersionNotFoundException"),
            "Model version: 9 does not exist for model: mirror",
            id="4.9 unknown version",
        ),
        pytest.param(
            *("/invocations", 400, "BadRequestException", "Parameter model_name is required."),
            id="4.9 no model name on invocations",
        ),
        pytest.param(
            *("/predictions/idle", 503, "ServiceUnavailableException"),
            f'Model "idle"{NO_WORKER}',
            id="4.9 no worker",
        ),
        pytest.param(
            *("/predictions/idle/1.0", 503, "ServiceUnavailableException"),
            f'Model "idle" Version 1.0"{NO_WORKER}',
            id="4.9 no worker of a version",
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_errors(
    inference: Ask, path: str, method: str, status: int, type: str, message: str
) -> None:
    reply = inference(method, path, b"x" if method == "POST" else None)
    assert (reply.status, reply.body) == (status, error(status, type, message))
    assert reply.header("content-type") == "application/json"


def test_options_of_an_unknown_model(inference: Ask) -> None:
    """4.2 OPTIONS /predictions/{model}: after the model was looked up."""
    reply = inference("OPTIONS", "/predictions/foo")
    assert reply.body == error(404, "ModelNotFoundException", "Model not found: foo")


@pytest.mark.parametrize(
    ("command", "status"),
    [
        pytest.param(b"exit", 500, id="4.9 worker crashed"),
        pytest.param(b"segfault", 500, id="4.9 worker crashed by a signal"),
        pytest.param(b"kill", 507, id="4.9 worker killed"),
        pytest.param(b"137", 507, id="4.9 worker exit value 137"),
    ],
)
def test_a_worker_that_dies(inference: Ask, command: bytes, status: int) -> None:
    reply = inference("POST", "/predictions/crash", command)
    assert reply.body == error(status, "InternalServerException", "Worker died.")
    assert reply.status == status


def test_a_response_timeout(inference: Ask) -> None:
    """4.9 response timeout."""
    reply = inference("POST", "/predictions/late", b"30")
    assert reply.body == error(500, "InternalServerException", "Worker died.")


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(None, id="4.9 no token"),
        pytest.param("Bearer wrong", id="4.9 wrong token"),
        pytest.param("bearer {inference}", id="4.9 the scheme's case counts"),
        pytest.param("{inference}", id="4.9 no scheme"),
        pytest.param("Bearer {management}", id="4.9 another API's token"),
    ],
)
def test_a_bad_token(shared: Server, token: str | None) -> None:
    given = () if token is None else (f"Authorization: {token.format(**shared.keys)}",)
    reply = ask(shared.ports[0], "POST", "/predictions/mirror", b"x", *given)
    message = (
        "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
    )
    assert (reply.line, reply.body) == (
        "HTTP/1.1 400 Bad Request",
        error(400, "InvalidKeyException", message),
    )


def test_a_body_that_is_too_large(plain: Server, inference: Ask) -> None:
    """4.9 request body > max_request_size. TorchServe's 413 had neither body nor request id nor a
    line in the access log: mended."""
    assert inference("POST", "/predictions/mirror", b"x" * 200_000).status == 200
    reply = inference("POST", "/predictions/mirror", b"x" * 200_001)
    assert reply.line == "HTTP/1.1 413 Request Entity Too Large"
    assert list(reply.json) == ["code", "type", "message"]
    assert "raise max_request_size" in reply.json["message"]
    assert len(reply.header("x-request-id") or "") == 36
    until(lambda: '"POST /predictions/mirror HTTP/1.1" 413 ' in plain.log("access_log"))


def test_the_shape_of_an_error(inference: Ask) -> None:
    """4.8: three keys in this order, indented by two, one line feed at the end."""
    reply = inference("GET", "/predictions/foo")
    assert list(json.loads(reply.body)) == ["code", "type", "message"]
    assert reply.body.startswith(b'{\n  "code": 404,\n  "type": "')
    assert reply.body.endswith(b'"\n}\n')


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        pytest.param(kind, status, id=f"4.8 {status} {kind}")
        for status, kinds in {
            404: "ResourceNotFoundException ModelNotFoundException ModelVersionNotFoundException "
            "WorkflowNotFoundException",
            400: "BadRequestException ModelException InvalidModelException InvalidKeyException "
            "DownloadArchiveException",
            409: "ConflictStatusException",
            408: "RequestTimeoutException",
            405: "MethodNotAllowedException",
            503: "ServiceUnavailableException",
            403: "InvalidModelVersionException IllegalArgumentException",
            500: "InternalServerException WorkerInitializationException JsonSyntaxException",
        }.items()
        for kind in kinds.split()
    ],
)
def test_statuses(kind: str, status: int) -> None:
    """4.8: each of TorchServe's exceptions that there is here has its status."""
    found = {error.status for error in subclasses(ServeError) if error.type == kind}
    assert found == {status}


def subclasses(kind: type[ServeError]) -> Iterator[type[ServeError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from subclasses(one)
