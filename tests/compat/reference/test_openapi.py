"""The API descriptions (4.11): what they list, and that they are OpenAPI 3.0 documents.

TorchServe's own breaches of OpenAPI are kept and listed here: defaults are strings whatever their
type, operations share names, and the description of a model has parameters it does not declare.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.compat.reference.wire import ask
from tests.e2e.conftest import Server
from ts_frontend.version import __version__

pytestmark = pytest.mark.e2e

INFERENCE = {
    "/": {"options": "apiDescription"},
    "/ping": {"get": "ping"},
    "/v1/models/{model_name}:predict": {"post": "predictions"},
    "/v2/models/{model_name}/infer": {"post": "predictions"},
    "/predictions/{model_name}": {"post": "predictions"},
    "/predictions/{model_name}/{model_version}": {"post": "version_predictions"},
    "/api-description": {"get": "api-description"},
    "/metrics": {"get": "metrics"},
}
ONE_MODEL = {"get": "describeModel", "put": "setAutoScale", "delete": "unregisterModel"}
MANAGEMENT = {
    "/": {"options": "apiDescription"},
    "/models": {"get": "listModels", "post": "registerModel"},
    "/models/{model_name}": ONE_MODEL,
    "/models/{model_name}/{model_version}": ONE_MODEL,
    "/models/{model_name}/{model_version}/set-default": {"put": "setDefault"},
    "/api-description": {"get": "api-description"},
    "/metrics": {"get": "metrics"},
}
CALL = {"post": "mirror"}
MODEL = {
    "/prediction/mirror": CALL,
    "/v1/models/{model_name}:predict": CALL,
    "/v2/models/{model_name}/infer": CALL,
}
DOCUMENTS = [
    pytest.param(0, "/", "TorchServe APIs", __version__, INFERENCE, id="4.11 inference"),
    pytest.param(1, "/", "TorchServe APIs", __version__, MANAGEMENT, id="4.11 management"),
    pytest.param(
        *(2, "/", "TorchServe APIs", __version__, {"/metrics": {"get": "metrics"}}),
        id="4.11 metrics listener",
    ),
    pytest.param(
        *(0, "/predictions/mirror", "RESTful API for: mirror", "1.0.0", MODEL), id="4.11 per-model"
    ),
    pytest.param(
        *(1, "/models/mirror", "RESTful Management API for: mirror", __version__),
        {"/models/mirror": ONE_MODEL},
        id="4.11 per-model management",
    ),
]
# Kinds of breach that are TorchServe's.
KEPT = {"default is a string", "shared operationId", "undeclared path parameter"}


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


@pytest.mark.parametrize(("port", "path", "title", "version", "listed"), DOCUMENTS)
def test_documents(
    plain: Server, port: int, path: str, title: str, version: str, listed: dict[str, dict[str, str]]
) -> None:
    document = ask(plain.ports[port], "OPTIONS", path).json
    assert list(document) == ["openapi", "info", "paths"]
    assert document["openapi"] == "3.0.1"
    assert document["info"]["title"] == title
    assert document["info"]["description"]
    assert document["info"]["version"] == version
    assert list(document["paths"]) == list(listed)
    names: dict[str, dict[str, str]] = {}
    for where, method, operation in operations(document):
        names.setdefault(where, {})[method] = operation["operationId"]
    assert names == listed


@pytest.mark.parametrize(("port", "path", "title", "version", "listed"), DOCUMENTS)
def test_documents_are_openapi(
    plain: Server, port: int, path: str, title: str, version: str, listed: dict[str, dict[str, str]]
) -> None:
    found = set(breaches(ask(plain.ports[port], "OPTIONS", path).json))
    assert {kind for kind, _ in found} <= KEPT, found


def test_the_document_of_one_port(shared: Server) -> None:
    """4.11, 4.1 ALL: everything that is there."""
    document = ask(shared.ports[0], "OPTIONS", "/").json
    assert set(document["paths"]) == {*INFERENCE, *MANAGEMENT}
    assert {kind for kind, _ in breaches(document)} <= KEPT


@pytest.mark.parametrize(
    ("name", "default"),
    [
        pytest.param("response_timeout", "120", id="4.11 response_timeout, TorchServe said 2"),
        pytest.param("synchronous", "true", id="4.11 synchronous, TorchServe said false"),
        pytest.param("batch_size", "1", id="4.11 batch_size"),
        pytest.param("max_batch_delay", "100", id="4.11 max_batch_delay"),
    ],
)
def test_defaults_are_strings_and_true(plain: Server, name: str, default: str) -> None:
    """4.11 all parameter defaults are JSON strings. Where TorchServe's document did not say what
    its source does, this one does."""
    register = ask(plain.ports[1], "OPTIONS", "/").json["paths"]["/models"]["post"]
    schemas = {one["name"]: one["schema"] for one in register["parameters"]}
    assert schemas[name]["default"] == default


def test_partial_success_is_206(plain: Server) -> None:
    """4.11 TorchServe's document had 210 in its place."""
    register = ask(plain.ports[1], "OPTIONS", "/").json["paths"]["/models"]["post"]
    assert {"200", "202", "206"} <= set(register["responses"])


def breaches(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What OpenAPI 3.0 does not allow, as (kind, where)."""
    seen: set[str] = set()
    for path, method, operation in operations(document):
        where = f"{method} {path}"
        if not path.startswith("/"):
            yield "path without a slash", where
        if operation["operationId"] in seen:
            yield "shared operationId", where
        seen.add(operation["operationId"])
        if set(operation) - {
            *("description", "operationId", "parameters", "requestBody", "responses", "deprecated")
        }:
            yield "unknown field", where
        yield from _parameters(path, where, operation.get("parameters", []))
        body = operation.get("requestBody")
        if body is not None and not body.get("content"):
            yield "body without content", where
        if body is not None and method in ("get", "delete", "options"):
            yield "body where none is allowed", where
        yield from _responses(where, operation["responses"])


def _parameters(path: str, where: str, parameters: list[dict[str, Any]]) -> Iterator[Any]:
    names = [(one["in"], one["name"]) for one in parameters]
    if len(set(names)) != len(names):
        yield "a parameter twice", where
    for name in re.findall(r"{(\w+)}", path):
        if ("path", name) not in names:
            yield "undeclared path parameter", where
    for one in parameters:
        if one["in"] not in ("path", "query", "header", "cookie"):
            yield "unknown place", where
        if one["in"] == "path" and (not one["required"] or f"{{{one['name']}}}" not in path):
            yield "path parameter that is not in the path", where
        yield from _schema(where, one["schema"])


def _responses(where: str, responses: dict[str, Any]) -> Iterator[Any]:
    if not responses:
        yield "no response", where
    for status, response in responses.items():
        if not re.fullmatch("[1-5][0-9X]{2}|default", status) or not response.get("description"):
            yield "response", f"{where} {status}"
        for media in response.get("content", {}).values():
            yield from _schema(where, media.get("schema", {"type": "string"}))


def _schema(where: str, schema: dict[str, Any]) -> Iterator[Any]:
    kind = schema["type"]
    if kind not in ("array", "boolean", "integer", "number", "object", "string"):
        yield "unknown type", where
    if kind == "array":
        yield from _schema(where, schema["items"])
    if "default" in schema and kind != "string":
        yield "default is a string", where
    properties = schema.get("properties", {})
    if not set(schema.get("required", ())) <= set(properties):
        yield "required without a property", where
    for one in properties.values():
        yield from _schema(where, one)
