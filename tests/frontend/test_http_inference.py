"""The routes of the inference listener (reference §4.2, §4.3)."""

from __future__ import annotations

import json
import uuid
from typing import Any

import aiohttp
import pytest

from tests.frontend.http_fakes import Edge, edge, post, talk
from ts_frontend.core.job import Answer
from ts_frontend.errors import NotInTime, ServiceUnavailable
from ts_worker.messages import Request

RESOURCE = "Requested resource is not found, please refer to API document."
METHOD = "Requested method is not allowed, please refer to API document."


async def ask(e: Edge, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Send one request; the answer's status, and its JSON or text."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, e.url(path), data=body) as answer,
    ):
        text = await answer.text()
        return answer.status, json.loads(text) if text.startswith(("{", "[")) else text


@pytest.mark.parametrize(
    ("path", "version", "explain", "url_path"),
    [
        ("/predictions/m", None, "False", ""),
        ("/predictions/m/", None, "False", ""),
        ("/predictions/m/2.0", "2.0", "False", ""),
        ("/predictions/m/2.0/a/b", "2.0", "False", "a/b"),
        ("/predictions/m/2.0/a%20b", "2.0", "False", "a b"),
        ("/predictions%2Fm", None, "False", ""),
        ("/explanations/m", None, "True", ""),
        ("/explanations/m/2.0/x", "2.0", "True", "x"),
        ("/v1/models/m:predict", None, "False", None),
        ("/v1/models/m:explain", None, "True", None),
        ("/v2/models/m/infer", None, "False", None),
        ("/v2/models/m/explain", None, "True", None),
        ("/models/m/invoke", None, None, None),
        ("/m/predict", None, None, None),
        ("/m/2.0/predict", "2.0", None, None),
        ("/invocations?model_name=m", None, None, None),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "PUT"])
async def test_every_spelling_of_a_prediction(
    method: str, path: str, version: str | None, explain: str | None, url_path: str | None
) -> None:
    async with edge() as e:
        raw = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nConnection: close"
        answer = await talk(e.port, raw.encode() + b"\r\n\r\nz")
        assert answer.startswith(b"HTTP/1.1 200 \r\n"), answer
        assert e.inference.calls[0][:2] == ("m", version)
        assert e.inference.row()["body"] == ("", b"z")
        assert e.inference.headers().get("explain") == explain
        assert e.inference.kinds == ["explain" if explain == "True" else "predict"]
        assert e.inference.headers().get("url_path") == url_path


@pytest.mark.parametrize(
    "path",
    [
        *("/nowhere", "/predictions", "/explanations", "/invocations/x", "/models", "/models/a/b"),
        *("/v1/models/m", "/v1/models/m/x:predict", "/v2/models/m/ready", "/v2/models/m/2/infer"),
        *("/metrics", "/token", "/a/b/c/predict", "//ping", "/PING", "/api-description/x"),
    ],
)
async def test_everything_else_is_not_found(path: str) -> None:
    async with edge() as e:
        status, body = await ask(e, "POST", path)
        assert status == 404
        assert body == {"code": 404, "type": "ResourceNotFoundException", "message": RESOURCE}
        assert not e.inference.calls


async def test_the_handler_sees_headers_in_the_clients_case_and_ours_last() -> None:
    async with edge() as e:
        lines = ("X-MiXed: One", "x-twice: 1", "x-twice: 2", "explain: spoofed", "X-Latin: \xe9")
        answer = await talk(e.port, post("/predictions/m", b"", *lines))
        request_id = answer.split(b"x-request-id: ")[1][:36]
        headers = e.inference.headers()
        assert headers["X-MiXed"] == "One"
        assert headers["x-twice"] == "2"
        assert headers["explain"] == "False"
        assert "x-mixed" not in headers
        assert e.inference.calls[0][2].id == request_id
        assert uuid.UUID(request_id.decode()).version == 4


async def test_a_nul_in_the_path_cannot_forge_a_header() -> None:
    async with edge() as e:
        await talk(e.port, post("/predictions/m/1/a%00forged%00yes"))
        assert "forged" not in e.inference.headers()
        assert len(e.inference.headers()["url_path"]) > 5


async def test_the_query_reaches_the_row_on_three_routes_only() -> None:
    async with edge() as e:
        await ask(e, "POST", "/predictions/m?a=1", b"x")
        assert set(e.inference.row()) == {"body"}
        for path in ("/invocations?model_name=m&", "/models/m/invoke?", "/m/predict?"):
            await ask(e, "POST", path + "a=1;b=%20&a=2", b"x")
            row = e.inference.row()
            assert row["a"] == ("", b"2")
            assert row["b"] == ("", b" ")
            assert row["body"][1] == b"x"


async def test_invocations_finds_its_model() -> None:
    form = ("Content-Type: application/x-www-form-urlencoded",)
    async with edge() as e:
        nameless = await talk(e.port, post("/invocations", b"x"))
        assert nameless.startswith(b"HTTP/1.1 400 ")
        assert b'"message": "Parameter model_name is required."' in nameless
        await talk(e.port, post("/invocations", b"model_name=m&a=1", *form))
        assert set(e.inference.row()) == {"model_name", "a"}
        e.inference.startup = "m"
        await talk(e.port, post("/invocations", b"model_name=other", *form))
        assert len(e.inference.calls) == 2
        assert b" 404 " in await talk(e.port, post("/invocations?model_name=other"))


async def test_options_describe_a_model_without_running_it() -> None:
    async with edge() as e:
        status, body = await ask(e, "OPTIONS", "/predictions/m")
        assert status == 200
        assert body["info"]["title"] == "RESTful API for: m"
        assert list(body["paths"]) == [
            "/prediction/m",
            "/v1/models/{model_name}:predict",
            "/v2/models/{model_name}/infer",
        ]
        assert (await ask(e, "OPTIONS", "/predictions/none"))[0] == 404
        assert not e.inference.calls


@pytest.mark.parametrize("path", ["/ping", "/ping/", "/ping/anything"])
async def test_ping_tells_the_health(path: str) -> None:
    async with edge() as e:
        assert await ask(e, "GET", path) == (200, {"status": "Healthy"})
        e.inference.well = False
        assert await ask(e, "GET", path) == (500, {"status": "Unhealthy"})


async def test_liveness_and_readiness_are_on_every_port() -> None:
    async with edge() as e, aiohttp.ClientSession() as session:
        ready, not_ready = {"status": "Ready"}, {"status": "Not ready", "missing": ["m"]}
        for lacks, status, body in (([], 200, ready), (["m"], 503, not_ready)):
            e.management.lacks = lacks
            for listener in range(3):
                async with session.get(e.url("/livez", listener)) as answer:
                    assert answer.status == 200
                    assert await answer.json() == {"status": "Alive"}
                async with session.get(e.url("/readyz", listener)) as answer:
                    assert answer.status == status
                    assert await answer.json() == body
    assert len(e.listeners) == 3


async def test_the_readiness_of_a_model_is_on_every_port() -> None:
    async with edge() as e, aiohttp.ClientSession() as session:
        for lacks, path, missing in (
            ([], "/models/m/ready", None),
            (["one"], "/models/m/ready", ["None one"]),
            (["one"], "/models/m/2.0/ready", ["2.0 one"]),
        ):
            e.management.lacks = lacks
            for listener in range(3):
                async with session.get(e.url(path, listener)) as answer:
                    assert answer.status == (503 if missing else 200)
                    assert (await answer.json()).get("missing") == missing
        async with session.get(e.url("/models/none/ready")) as answer:
            assert (answer.status, (await answer.json())["type"]) == (404, "ModelNotFoundException")
        # A version may be called so.
        async with session.put(e.url("/models/m/ready", 1)) as answer:
            assert answer.status == 200
        assert e.management.calls == [("scale", "m", "ready", 1, 1, False)]


async def test_the_root_and_the_descriptions() -> None:
    async with edge() as e:
        assert await ask(e, "GET", "/") == (
            405,
            {"code": 405, "type": "MethodNotAllowedException", "message": METHOD},
        )
        status, document = await ask(e, "OPTIONS", "/")
        assert status == 200
        assert (await ask(e, "POST", "/api-description")) == (200, document)
        assert list(document) == ["openapi", "info", "paths"]
        assert document["openapi"] == "3.0.1"
        assert list(document["paths"]) == [
            "/",
            "/ping",
            "/v1/models/{model_name}:predict",
            "/v2/models/{model_name}/infer",
            "/predictions/{model_name}",
            "/predictions/{model_name}/{model_version}",
            "/api-description",
            "/metrics",
        ]


async def test_a_proxy_may_send_the_absolute_form() -> None:
    async with edge() as e:
        request = b"GET http://x.org/ping HTTP/1.1\r\nHost: x.org\r\nConnection: close\r\n\r\n"
        assert (await talk(e.port, request)).startswith(b"HTTP/1.1 200 OK")


async def test_a_refusal_under_a_latency_target_says_so_and_keeps_the_connection() -> None:
    async def refuse(request: Request) -> Answer:
        if request.params[0].value == b"x":
            raise NotInTime("Not in time.", reason="latency_target")
        raise ServiceUnavailable("No worker.")

    async with edge(behaviour=refuse) as e:
        status, body = await ask(e, "POST", "/predictions/m", b"x")
        assert (status, body) == (
            503,
            {
                "code": 503,
                "type": "ServiceUnavailableException",
                "message": "Not in time.",
                "reason": "latency_target",
            },
        )
        first = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n"
        said = await talk(e.port, first + b"x" + first + b"y")
        assert said.count(b"HTTP/1.1 503 Service Unavailable\r\n") == 2
        kept, closed = said.split(b"Not in time.")
        assert b"connection: keep-alive\r\n" in kept
        assert b"connection: close\r\n" in closed
