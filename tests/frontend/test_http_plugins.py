"""Endpoints of plugins over HTTP: where they stand, and what of the server holds for them too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.frontend.http_fakes import Edge, edge, post, talk, until, without_id
from ts_frontend.config import Address, ConfigError
from ts_frontend.endpoints import Installed
from ts_frontend.http.plugins import PluginFace
from ts_frontend.http.tokens import Tokens
from ts_frontend.plugins import BadRequest, Endpoint, Request, Response

ORIGIN = "demo 1.0, entry point e of torchserve_py.endpoints"


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[Tokens]:
    tokens = Tokens(tmp_path / "key_file.json")
    tokens.open()
    yield tokens
    tokens.close()


def installed(*endpoints: Endpoint) -> list[Installed]:
    return [Installed(endpoint, ORIGIN) for endpoint in endpoints]


def answering(response: Any) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Any:
        return response

    return handle


async def mirror(request: Request) -> Response:
    """Answer with all that it was asked."""
    return Response.json(
        {
            "method": request.method,
            "segments": request.segments,
            "query": request.query,
            "header": request.headers.get("x-mine"),
            "body": request.body.decode(),
            "id": request.id,
            "a": request.parameter("a"),
        }
    )


def named(name: str) -> Callable[[Request], Any]:
    return answering(Response.text(name))


async def ask(
    e: Edge, path: str, method: str = "GET", listener: int = 0, token: str = "", **options: Any
) -> tuple[int, str]:
    headers = {"X-Mine": "h"} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, e.url(path, listener), headers=headers, **options) as answer,
    ):
        return answer.status, await answer.text()


async def test_a_plugin_sees_the_request_and_its_bytes_are_sent() -> None:
    endpoints = installed(Endpoint("/mine", mirror, ("POST",)))
    async with edge(endpoints=endpoints) as e:
        status, text = await ask(e, "/mine/b%20c?a=1&a=2&x=%C3%BC", "POST", data=b"body")
        seen = json.loads(text)
        assert status == 200
        assert len(seen.pop("id")) == 36
        assert seen == {
            "method": "POST",
            "segments": ["mine", "b c"],
            "query": [["a", "1"], ["a", "2"], ["x", "ü"]],
            "header": "h",
            "body": "body",
            "a": "1",
        }


async def test_the_answer_has_the_servers_own_headers() -> None:
    headers = (("X-A", "1"), ("x-a", "2"), ("Content-Length", "99"), ("x-request-id", "mine"))
    response = Response(201, headers, b"made")
    async with edge(endpoints=installed(Endpoint("/mine", answering(response)))) as e:
        answer = await talk(e.port, b"GET /mine HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert without_id(answer) == (
            b"HTTP/1.1 201 Created\r\nX-A: 1\r\nx-a: 2\r\nx-request-id: ID\r\n"
            b"Pragma: no-cache\r\nCache-Control: no-cache; no-store, must-revalidate, private\r\n"
            b"Expires: Thu, 01 Jan 1970 00:00:00 UTC\r\ncontent-length: 4\r\n"
            b"connection: close\r\n\r\nmade"
        )
        assert '"GET /mine HTTP/1.1" 201' in e.logs.access_lines[0]
        assert 'Requests2XX{Level="Host",Hostname="here",} 1.0' in e.recorder.render([]).decode()


async def test_only_its_methods_are_answered_and_head_goes_with_get() -> None:
    async with edge(endpoints=installed(Endpoint("/mine", named("x")))) as e:
        assert await ask(e, "/mine") == (200, "x")
        assert await ask(e, "/mine", "HEAD") == (200, "")
        status, text = await ask(e, "/mine", "POST")
        assert (status, json.loads(text)["type"]) == (405, "MethodNotAllowedException")


async def test_the_longest_path_counts_and_only_whole_segments() -> None:
    endpoints = installed(
        Endpoint("/a", named("a")), Endpoint("/a/b/c", named("abc")), Endpoint("/v1/x", named("v1"))
    )
    async with edge(endpoints=endpoints) as e:
        for path, name in (("/a", "a"), ("/a/", "a"), ("/a/b", "a"), ("/a/b/c/d", "abc")):
            assert await ask(e, path) == (200, name)
        assert await ask(e, "/v1/x/completions") == (200, "v1")
        for path in ("/ab", "/v1", "/v1/models/m:predict"):
            assert (await ask(e, path))[1] != "a"
        assert (await ask(e, "/ab"))[0] == 404
        assert (await ask(e, "/", "OPTIONS"))[0] == 200


async def test_ping_can_be_replaced_and_the_rest_stays() -> None:
    async with edge(endpoints=installed(Endpoint("/ping", named("pong"), token=False))) as e:
        assert await ask(e, "/ping") == (200, "pong")
        assert (await ask(e, "/livez"))[0] == 200
        assert (await ask(e, "/predictions/m", "POST", data=b"y")) == (200, "y")


async def test_each_listener_has_its_own() -> None:
    endpoints = installed(
        Endpoint("/x", named("inference")),
        Endpoint("/x", named("management"), listener="management"),
    )
    async with edge(endpoints=endpoints) as e:
        assert await ask(e, "/x") == (200, "inference")
        assert await ask(e, "/x", listener=1) == (200, "management")
        assert (await ask(e, "/x", listener=2))[0] == 404


async def test_on_a_shared_port_both_are_served_with_their_tokens(
    tokens: Tokens, tmp_path: Path
) -> None:
    address = Address("unix", "", 0, str(tmp_path / "s"))
    keys = {kind: entry["key"] for kind, entry in json.loads(tokens.path.read_text()).items()}
    endpoints = installed(
        Endpoint("/i", named("i")), Endpoint("/m", named("m"), listener="management")
    )
    shared = {"inference_address": address, "management_address": address}
    async with (
        edge(endpoints=endpoints, tokens=tokens, **shared),
        aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(address.path)) as session,
    ):
        for path, right in (("/i", "inference"), ("/m", "management")):
            for kind, key in keys.items():
                headers = {"Authorization": f"Bearer {key}"}
                async with session.get(path, headers=headers) as answer:
                    assert answer.status == (200 if kind == right else 400)


def test_two_plugins_on_one_path_of_a_shared_port_are_refused() -> None:
    endpoints = installed(
        Endpoint("/x", named("i")), Endpoint("/x", named("m"), listener="management")
    )
    endpoints[1] = Installed(endpoints[1].endpoint, "other 2.0")
    unused: Any = None
    with pytest.raises(ConfigError, match=rf"^other 2.0: /x is served by {ORIGIN} already"):
        PluginFace(endpoints, unused, unused, unused)


async def test_a_token_is_needed_unless_it_says_otherwise(tokens: Tokens) -> None:
    calls = []

    async def count(request: Request) -> Response:
        calls.append(request)
        return Response()

    endpoints = installed(Endpoint("/closed", count), Endpoint("/open", count, token=False))
    key = json.loads(tokens.path.read_text())["inference"]["key"]
    async with edge(endpoints=endpoints, tokens=tokens) as e:
        status, text = await ask(e, "/closed")
        assert (status, json.loads(text)["type"]) == (400, "InvalidKeyException")
        assert (await ask(e, "/closed", "POST"))[0] == 400
        assert not calls
        assert (await ask(e, "/closed", token=key))[0] == 200
        assert (await ask(e, "/open"))[0] == 200


async def test_a_body_has_the_servers_limit() -> None:
    endpoints = installed(Endpoint("/mine", mirror, ("POST",)))
    async with edge(endpoints=endpoints, max_request_size=10) as e:
        assert (await talk(e.port, post("/mine", b"x" * 11))).startswith(b"HTTP/1.1 413 ")
        assert (await talk(e.port, post("/mine", b"x" * 10))).startswith(b"HTTP/1.1 200 ")


async def test_an_exception_costs_its_request_only(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(request: Request) -> Response:
        raise ZeroDivisionError("by zero")

    async with edge(endpoints=installed(Endpoint("/mine", fail))) as e:
        status, text = await ask(e, "/mine")
        assert (status, json.loads(text)) == (
            500,
            {
                "code": 500,
                "type": "InternalServerException",
                "message": "The plugin behind /mine failed; the server's log holds the cause.",
            },
        )
        assert (await ask(e, "/ping"))[0] == 200
    assert caplog.messages == [f"GET /mine failed ({ORIGIN})"]
    assert "ZeroDivisionError: by zero" in caplog.text


@pytest.mark.parametrize("end", [SystemExit(3), asyncio.CancelledError()])
async def test_a_plugin_ends_neither_server_nor_connection(
    end: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    """`sys.exit`, and a task of the plugin's own that was cancelled."""

    async def leave(request: Request) -> Response:
        raise end

    async with edge(endpoints=installed(Endpoint("/mine", leave))) as e:
        status, text = await ask(e, "/mine")
        assert (status, json.loads(text)["type"]) == (500, "InternalServerException")
        assert (await ask(e, "/ping"))[0] == 200
    assert type(end).__name__ in caplog.text


async def test_an_error_of_the_servers_is_answered_as_such() -> None:
    async def refuse(request: Request) -> Response:
        raise BadRequest("No such thing.")

    async with edge(endpoints=installed(Endpoint("/mine", refuse))) as e:
        status, text = await ask(e, "/mine")
        assert (status, json.loads(text)["type"]) == (400, "BadRequestException")


@pytest.mark.parametrize(
    ("response", "cause"),
    [
        (None, "expected a Response, not NoneType"),
        ("text", "expected a Response, not str"),
        (Response(99), "status 99: expected 200 to 599"),
        (Response(headers=(("a b", "c"),)), "header 'a b': 'c' cannot be sent"),
        (Response(headers=(("a", "b\r\nc: d"),)), "cannot be sent"),
        (Response(headers=(("a", "b\0"),)), "cannot be sent"),
        (Response(headers=(("", "b"),)), "cannot be sent"),
        (Response(body="text"), "expected bytes as the body, not str"),  # type: ignore[arg-type]
    ],
)
async def test_an_answer_that_cannot_be_sent_is_a_500(
    response: Any, cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with edge(endpoints=installed(Endpoint("/mine", answering(response)))) as e:
        assert (await ask(e, "/mine"))[0] == 500
    assert cause in caplog.text


async def test_it_is_cancelled_when_its_client_goes_away() -> None:
    state: list[str] = []

    async def wait(request: Request) -> Response:
        state.append("begun")
        try:
            await asyncio.Event().wait()
        finally:
            state.append("ended")
        raise AssertionError

    async with edge(endpoints=installed(Endpoint("/mine", wait))) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: state == ["begun"])
        writer.close()
        await until(lambda: state == ["begun", "ended"])


async def test_without_plugins_there_is_no_face() -> None:
    async with edge() as e:
        for listener in e.listeners:
            assert not any(isinstance(face, PluginFace) for face in listener._router._faces)
    async with edge(endpoints=installed(Endpoint("/mine", mirror))) as e:
        found = [
            any(isinstance(face, PluginFace) for face in listener._router._faces)
            for listener in e.listeners
        ]
        assert found == [True, False, False]
