"""Endpoint plugins: how they are found, what stops a start, and what they see of the server."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ts_frontend.config import Address, Config, ConfigError
from ts_frontend.core.management import Management
from ts_frontend.endpoints import OWN_PATHS, ServerView, load_endpoints
from ts_frontend.errors import ModelNotFound
from ts_frontend.plugins import GROUP, Endpoint, Request, Response, Server

ANY: Any = None
ORIGIN = f"demo 1.0, entry point e of {GROUP}"


async def handle(request: Request) -> Response:
    return Response()


def of(plugin: Callable[[Server], Any], name: str = "demo") -> EntryPoint:
    """An entry point of a distribution, which leads to this function."""
    module = SimpleNamespace(plugin=plugin)
    sys.modules[f"plugin_of_{name}"] = cast(Any, module)
    dist = SimpleNamespace(name=name, version="1.0")
    entry = EntryPoint("e", f"plugin_of_{name}:plugin", GROUP)
    return entry._for(cast(Distribution, dist))  # type: ignore[attr-defined,no-any-return]


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("plugin_of_"):
            del sys.modules[name]


def test_what_is_found_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = Endpoint("/one", handle)
    two = Endpoint("/two", handle, ("GET", "POST"), listener="management")
    found = load_endpoints(ANY, [of(lambda server: [two], "z"), of(lambda server: iter([one]))])
    assert [(each.endpoint, each.origin) for each in found] == [
        (one, ORIGIN),
        (two, ORIGIN.replace("demo", "z")),
    ]
    assert caplog.messages == [
        f"inference API: GET /one from {ORIGIN}",
        f"management API: GET, POST /two from {ORIGIN.replace('demo', 'z')}",
    ]


def test_a_plugin_is_given_the_server() -> None:
    seen = []
    load_endpoints(cast(Server, "the server"), [of(lambda server: seen.append(server) or [])])
    assert seen == ["the server"]


def fail(server: Server) -> list[Endpoint]:
    raise KeyError("no such setting")


def leave(server: Server) -> list[Endpoint]:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("plugin", "cause"),
    [
        (fail, "plugin_of_demo:plugin failed: KeyError: 'no such setting'. Mend or uninstall it."),
        (leave, "plugin_of_demo:plugin failed: SystemExit: 3. Mend or uninstall it."),
        (lambda server: None, "failed: TypeError: 'NoneType' object is not iterable."),
        (lambda server: ["/x"], "plugin_of_demo:plugin gave '/x' in place of an Endpoint"),
        (lambda server: [Endpoint("x", handle)], "failed: ValueError: path='x': expected /name"),
    ],
)
def test_a_plugin_that_fails_stops_the_start(
    plugin: Callable[[Server], Any], cause: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_endpoints(ANY, [of(plugin)])
    assert str(caught.value).startswith(f"{ORIGIN}: ")
    assert cause in str(caught.value)


def test_a_plugin_that_cannot_be_imported_stops_the_start(
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry = EntryPoint("e", "no_such_module:x", GROUP)
    with pytest.raises(ConfigError, match="failed: ModuleNotFoundError: No module named"):
        load_endpoints(ANY, [entry])
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("listener", ["inference", "management"])
@pytest.mark.parametrize("path", [*OWN_PATHS, "/predictions/m", "/models/m", "/v1", "/v2"])
def test_the_servers_own_paths_stay_its_own(path: str, listener: Any) -> None:
    endpoint = Endpoint(path, handle, listener=listener)
    with pytest.raises(ConfigError) as caught:
        load_endpoints(ANY, [of(lambda server: [endpoint])])
    assert str(caught.value).startswith(f"{ORIGIN}: {path} is or holds /")


@pytest.mark.parametrize("path", ["/ping", "/execution-parameters", "/v1/chat", "/modelsx", "/v3"])
def test_other_paths_are_free(path: str) -> None:
    endpoint = Endpoint(path, handle)
    (found,) = load_endpoints(ANY, [of(lambda server: [endpoint])])
    assert found.endpoint is endpoint


def test_ping_is_of_the_inference_api() -> None:
    endpoint = Endpoint("/ping", handle, listener="management")
    with pytest.raises(ConfigError, match="/ping is or holds /ping"):
        load_endpoints(ANY, [of(lambda server: [endpoint])])


@pytest.mark.parametrize("path", ["", "/", "x", "/a//b", "/a/", "/a b", "/a%20b", "/a?b", "/a#b"])
def test_a_path_that_no_request_has_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="expected /name or /name/more"):
        Endpoint(path, handle)


@pytest.mark.parametrize("methods", ["GET", (), ("get",), ("GET", "")])
def test_methods_are_some_words_in_capitals(methods: Any) -> None:
    with pytest.raises(ValueError, match="expected some like"):
        Endpoint("/x", handle, methods)


def test_a_handler_is_async_and_a_listener_is_one_of_two() -> None:
    with pytest.raises(TypeError, match="/x: handle must be an async function"):
        Endpoint("/x", lambda request: Response())  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="expected inference or management"):
        Endpoint("/x", handle, listener="metrics")  # type: ignore[arg-type]


def test_the_configuration_is_plain_complete_and_without_secrets() -> None:
    config = Config(
        inference_address=Address("http", "h", 1), model_store=Path("/s"), keystore_pass="hunter2"
    )
    seen = ServerView(config, ANY).config
    assert seen["inference_address"] == "http://h:1"
    assert seen["model_store"] == "/s"
    assert seen["max_request_size"] == 6553500
    assert seen["allowed_urls"] == list(config.allowed_urls)
    assert "keystore_pass" not in seen
    assert "hunter2" not in repr(dict(seen))
    with pytest.raises(TypeError):
        seen["batch_size"] = 1  # type: ignore[index]


@pytest.mark.parametrize("count", [0, 1, 99, 100, 101, 200, 250])
async def test_all_versions_of_all_models_are_shown(count: int) -> None:
    names = [f"m{number:03}" for number in range(count)]

    class Some:
        def list_models(self, limit: int, start: int) -> dict[str, Any]:
            return {"models": [{"modelName": name} for name in names[start : start + limit]]}

        async def describe(self, model: str, version: str | None) -> list[dict[str, Any]]:
            assert version == "all"
            if model == "m005":
                raise ModelNotFound("gone meanwhile")
            return [{"modelName": model, "modelVersion": version} for version in ("1.0", "2.0")]

    found = await ServerView(Config(), cast(Management, Some())).models()
    assert len(found) == 2 * (count - ("m005" in names))
