"""The routes and parameters of the management listener (reference §5)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.frontend.http_fakes import Edge, edge, post, talk, until
from ts_frontend.config import Address
from ts_frontend.core.management import Outcome
from ts_frontend.core.settings import Registration

METHOD = "Requested method is not allowed, please refer to API document."


async def ask(
    e: Edge, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
) -> tuple[int, Any]:
    """Send one request to the management listener; the answer's status and JSON."""
    headers = {"Content-Type": kind} if body is not None else {}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, e.url(path, 1), data=body, headers=headers) as answer,
    ):
        return answer.status, await answer.json()


@pytest.mark.parametrize(
    ("method", "path", "call"),
    [
        ("GET", "/models", ("list", 100, 0)),
        ("GET", "/models?limit=5&next_page_token=7", ("list", 5, 7)),
        ("GET", "/models?limit=0", ("list", 0, 0)),
        ("GET", "/models?limit=101&next_page_token=-3", ("list", 100, 0)),
        ("GET", "/models?limit=-1", ("list", 100, 0)),
        ("GET", "/models?limit=many&next_page_token=x", ("list", 100, 0)),
        ("GET", "/models/m", ("describe", "m", None, False)),
        ("GET", "/models/m/2.0", ("describe", "m", "2.0", False)),
        ("GET", "/models/m/all?customized=TRUE", ("describe", "m", "all", True)),
        ("GET", "/models/m/2.0/set-default", ("describe", "m", None, False)),
        ("PUT", "/models/m", ("scale", "m", None, 1, 1, False)),
        ("PUT", "/models/m?min_worker=3", ("scale", "m", None, 3, 3, False)),
        (
            "PUT",
            "/models/m/2?min_worker=0&max_worker=4&synchronous=true",
            ("scale", "m", "2", 0, 4, True),
        ),
        ("PUT", "/models/m?model_version=2&timeout=5", ("scale", "m", "2", 1, 1, False)),
        ("PUT", "/models/m?min_worker=3&min_worker=4", ("scale", "m", None, 3, 3, False)),
        ("PUT", "/models/m/2.0/set-default", ("set_default", "m", "2.0")),
        ("DELETE", "/models/m", ("unregister", "m", None)),
        ("DELETE", "/models/m/2.0", ("unregister", "m", "2.0")),
        ("GET", "/v1/models/m", ("ready", "m")),
    ],
)
async def test_what_each_route_asks_the_core(method: str, path: str, call: tuple[Any, ...]) -> None:
    async with edge(enable_model_api=True) as e:
        status, _ = await ask(e, method, path)
        assert status == 200
        assert e.management.calls == [call]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/models"), ("DELETE", "/models/m"), ("DELETE", "/models/m/2.0")),
        *(("PUT", "/models"), ("POST", "/models/m"), ("PATCH", "/models/m/1")),
        *(("POST", "/v1/models/m"), ("GET", "/"), ("DELETE", "/models/m/1/set-default")),
    ],
)
async def test_wrong_methods_and_a_model_api_that_is_off_are_a_405(method: str, path: str) -> None:
    async with edge() as e:
        expected = {"code": 405, "type": "MethodNotAllowedException", "message": METHOD}
        assert await ask(e, method, path) == (405, expected)
        assert e.management.calls == []


@pytest.mark.parametrize("path", ["/ping", "/predictions/m", "/models/m/1/2", "/token", "/x"])
async def test_other_paths_are_not_here(path: str) -> None:
    async with edge() as e:
        status, body = await ask(e, "GET", path)
        assert (status, body["type"]) == (404, "ResourceNotFoundException")


async def test_outcomes_are_status_objects() -> None:
    async with edge(enable_model_api=True) as e:
        e.management.outcome = Outcome(202, "Processing worker updates...")
        assert await ask(e, "PUT", "/models/m") == (
            202,
            {"status": "Processing worker updates..."},
        )
        assert await ask(e, "GET", "/models/m") == (200, [{"modelName": "m"}])
        assert await ask(e, "GET", "/v1/models/m:x") == (200, {"name": "m", "ready": True})
        status, body = await ask(e, "GET", "/models/none")
        assert (status, body["message"]) == (404, "Model not found: none")


ALL = Registration(
    url="a.mar",
    model_name="n",
    handler="h",
    runtime="python",
    batch_size=8,
    max_batch_delay=20,
    initial_workers=2,
    synchronous=False,
    response_timeout=5,
    startup_timeout=6,
    s3_sse_kms=True,
    weights_only=False,
    max_latency=50,
)
QUERY = (
    "url=a.mar&model_name=n&handler=h&runtime=python&batch_size=8&max_batch_delay=20"
    "&initial_workers=2&synchronous=no&response_timeout=5&startup_timeout=6&s3_sse_kms=True"
    "&weights_only=False&max_latency_ms=50"
)


@pytest.mark.parametrize(
    ("query", "body", "expected"),
    [
        (QUERY, None, ALL),
        ("url=a.mar", None, Registration(url="a.mar")),
        ("url=", None, Registration(url="")),
        (
            "url=a&batch_size=-1&max_batch_delay=-100&response_timeout=-1&startup_timeout=-1",
            None,
            Registration(url="a"),
        ),
        ("url=a&batch_size=lots", None, Registration(url="a")),
        ("url=a%2Fb+c", None, Registration(url="a/b c")),
        ("url=ignored", {"url": "a.mar"}, Registration(url="a.mar")),
        (
            "",
            {
                **{"url": "a.mar", "model_name": "n", "handler": "h", "runtime": "python"},
                **{"batch_size": "8", "max_batch_delay": 20, "initial_workers": 2.0},
                **{"synchronous": False, "response_timeout": 5, "startup_timeout": 6},
                "s3_sse_kms": "true",
                "weights_only": False,
                "max_latency_ms": 50,
            },
            ALL,
        ),
    ],
)
async def test_registration_parameters(
    query: str, body: dict[str, Any] | None, expected: Registration
) -> None:
    async with edge(enable_model_api=True) as e:
        data = None if body is None else json.dumps(body).encode()
        assert (await ask(e, "POST", f"/models?{query}", data))[0] == 200
        assert e.management.calls == [("register", expected)]


@pytest.mark.parametrize(
    "body",
    [
        b"{'url': 'a.mar', 'batch_size': 8}",
        b"{url: a.mar, batch_size: '8'}",
        b'{"url": "a.mar", "batch_size": 8, "unknown": [1]}',
        b"{'url' = \"a.mar\"; batch_size => 8.0} // as gson has it",
        b"\xef\xbb\xbf{'url': 'a.\\u006dar', /* why not */ 'batch_size': '8e0'}",
    ],
)
async def test_json_is_read_as_leniently_as_gson_does(body: bytes) -> None:
    async with edge(enable_model_api=True) as e:
        assert (await ask(e, "POST", "/models", body, "Application/JSON; charset=utf-8"))[0] == 200
        assert e.management.calls == [("register", Registration(url="a.mar", batch_size=8))]


@pytest.mark.parametrize(
    ("body", "status", "type", "message"),
    [
        (b"", 400, "BadRequestException", "Parameter url is required."),
        (b"{}", 400, "BadRequestException", "Parameter url is required."),
        (b"{", 500, "JsonSyntaxException", "not valid JSON"),
        (b"[1]", 500, "JsonSyntaxException", "must be a JSON object"),
        (b"url: a.mar", 500, "JsonSyntaxException", "not valid JSON"),
        (b"{a: &x [1], b: *x}", 500, "JsonSyntaxException", "not valid JSON"),
        (b'{"url": "a", "batch_size": "x"}', 500, "JsonSyntaxException", "batch_size must be an"),
        (b'{"url": {"a": 1}}', 500, "JsonSyntaxException", "url must be a string"),
        (b"[" * 10_000, 500, "JsonSyntaxException", "nested too deeply"),
        (b'{"url": "a", "batch_size": 2147483648}', 500, "JsonSyntaxException", "not 2147483648."),
        (b'{"url": "a", "batch_size": "1_0"}', 500, "JsonSyntaxException", 'not "1_0".'),
        (b'{"url": "a", "batch_size": true}', 500, "JsonSyntaxException", "not true."),
        (
            b'{"url": "' + b"a" * 65536,
            413,
            "RequestEntityTooLargeException",
            "limit for parameters",
        ),
    ],
)
async def test_a_bad_registration_is_refused_with_its_cause(
    body: bytes, status: int, type: str, message: str
) -> None:
    async with edge(enable_model_api=True) as e:
        got, answer = await ask(e, "POST", "/models", body)
        assert (got, answer["type"]) == (status, type)
        assert message in answer["message"]
        assert e.management.calls == []


async def test_a_json_register_keeps_ampersands_and_the_text_of_numbers() -> None:
    body = b"{'url': 'http://h/x.mar?a=1&b=*2', model_name: 1.10}"
    async with edge(enable_model_api=True) as e:
        assert (await ask(e, "POST", "/models", body))[0] == 200
        asked = Registration(url="http://h/x.mar?a=1&b=*2", model_name="1.10")
        assert e.management.calls == [("register", asked)]


@pytest.mark.parametrize(
    "number", ["4294967296", "-2147483649", "9" * 400, "1_0", "+", "%2010", "1.0", "%D9%A3"]
)
async def test_what_is_no_integer_of_32_bits_counts_as_not_given(
    number: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge(enable_model_api=True) as e:
        await ask(e, "POST", f"/models?url=a.mar&response_timeout={number}&batch_size=%2B8")
        await ask(e, "PUT", f"/models/m?min_worker={number}&max_worker={number}")
        assert e.management.calls == [
            ("register", Registration(url="a.mar", batch_size=8)),
            ("scale", "m", None, 1, 1, False),
        ]
    assert "is not an integer from -2147483648 to 2147483647; its default is used" in caplog.text


async def test_a_client_that_goes_away_does_not_cut_a_change_short() -> None:
    async with edge(enable_model_api=True) as e:
        e.management.gate = asyncio.Event()
        _, writer = await asyncio.open_connection("127.0.0.1", e.listeners[1].port)
        writer.write(post("/models?url=a.mar"))
        await until(lambda: bool(e.management.calls))
        writer.close()
        await until(lambda: not e.listeners[1]._web.connections)
        e.management.gate.set()
        await until(lambda: e.management.finished == 1)


async def test_options_describe_the_management_of_a_model() -> None:
    async with edge() as e:
        _, document = await ask(e, "OPTIONS", "/models/m")
        assert document["info"]["title"] == "RESTful Management API for: m"
        _, whole = await ask(e, "OPTIONS", "/")
        assert list(whole["paths"]) == [
            "/",
            "/models",
            "/models/{model_name}",
            "/models/{model_name}/{model_version}",
            "/models/{model_name}/{model_version}/set-default",
            "/api-description",
            "/metrics",
        ]
        register = whole["paths"]["/models"]["post"]["parameters"]
        defaults = {p["name"]: p["schema"].get("default") for p in register}
        assert defaults["synchronous"] == "true"
        assert defaults["response_timeout"] == "120"


async def test_one_address_for_both_serves_everything(tmp_path: Path) -> None:
    shared = Address("unix", "", 0, str(tmp_path / "s"))
    async with edge(
        inference_address=shared, management_address=shared, enable_model_api=True
    ) as e:
        connector = aiohttp.UnixConnector(str(tmp_path / "s"))
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            paths = {
                ("POST", "/predictions/m"): 200,
                ("POST", "/models/m/invoke"): 200,
                ("GET", "/models"): 200,
                # TorchServe's inference API took these three away here; they are mended.
                ("GET", "/models/m/2.0"): 200,
                ("PUT", "/models/m/2.0"): 200,
                ("DELETE", "/models/m/2.0"): 200,
                ("PUT", "/models/m/2.0/set-default"): 200,
                ("GET", "/v1/models/m"): 200,
                ("POST", "/v1/models/m:predict"): 200,
                ("GET", "/ping"): 200,
                ("GET", "/metrics"): 200,
                ("GET", "/x"): 404,
            }
            for (method, path), status in paths.items():
                async with session.request(method, path) as answer:
                    assert answer.status == status, path
        # Metrics are bound by themselves as well.
        assert len(e.listeners) == 2


async def test_the_metrics_listener_is_off_when_asked() -> None:
    async with edge(enable_metrics_api=False) as e:
        assert len(e.listeners) == 2


async def test_a_set_default_keeps_the_connection() -> None:
    async with edge() as e:
        request = b"PUT /models/m/1/set-default HTTP/1.1\r\nHost: x\r\n\r\n"
        answer = await talk(e.listeners[1].port, request, b"GET /models HTTP/1.0\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n") == 2
