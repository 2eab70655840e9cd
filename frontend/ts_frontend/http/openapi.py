"""The API descriptions that OPTIONS and /api-description show: OpenAPI 3.0.1 as plain data.

Same paths, operations and parameters as TorchServe's (§4.11); defaults are strings there too.
`listeners` and the faces call the public functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ts_frontend.version import __version__

Document = dict[str, Any]

_JSON = "application/json"
_TITLE = "TorchServe APIs"
_ABOUT = "Serves PyTorch models; compatible with TorchServe's REST API."
_STATUS = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string", "description": "What was done"}},
}
_ERROR = {
    "type": "object",
    "required": ["code", "type", "message"],
    "properties": {
        "code": {"type": "integer", "description": "HTTP status code"},
        "type": {"type": "string", "description": "Name of the error"},
        "message": {"type": "string", "description": "What went wrong"},
    },
}
_ANY = {"description": "Whatever the handler returns", "content": {"*/*": {}}}


def inference() -> Document:
    """Describe the inference listener."""
    return _document(_TITLE, __version__, inference_paths())


def management() -> Document:
    """Describe the management listener."""
    return _document(_TITLE, __version__, management_paths())


def metrics() -> Document:
    """Describe the metrics listener."""
    return _document(_TITLE, __version__, metrics_paths())


def combined() -> Document:
    """Describe a listener that serves all APIs on one port."""
    paths = {**management_paths(), **inference_paths()}
    return _document(_TITLE, __version__, paths)


def model(name: str) -> Document:
    """Describe what a client can ask of one model."""
    answer = {"200": _ANY}
    call = {"post": _operation(name, f"Predict with {name}.", answer, body={"*/*": {}})}
    paths = {
        f"/prediction/{name}": call,  # TorchServe's spelling
        "/v1/models/{model_name}:predict": call,
        "/v2/models/{model_name}/infer": call,
    }
    return _document(f"RESTful API for: {name}", "1.0.0", paths)


def managed_model(name: str) -> Document:
    """Describe what an operator can do with one model."""
    paths = {f"/models/{name}": _one_model(())}
    return _document(f"RESTful Management API for: {name}", __version__, paths)


def inference_paths() -> Document:
    """Return the paths of the inference API."""
    version = _path("model_version", "Version of the model")
    health = {"200": _answer("Healthy", _STATUS), "500": _answer("Unhealthy", _STATUS)}
    return {
        "/": _description(),
        "/ping": {"get": _operation("ping", "Tell the health of the server.", health)},
        "/v1/models/{model_name}:predict": _predict("predictions", ()),
        "/v2/models/{model_name}/infer": _predict("predictions", ()),
        "/predictions/{model_name}": _predict("predictions", ()),
        "/predictions/{model_name}/{model_version}": _predict("version_predictions", (version,)),
        **_tail(),
    }


def management_paths() -> Document:
    """Return the paths of the management API."""
    version = _path("model_version", "Version of the model")
    chosen = _path("model_version", "Version that answers when a client names none")
    set_default = _operation(
        "setDefault",
        "Make a version the default one.",
        {"200": _answer("The default version was changed", _STATUS), **_errors("404")},
        (_model_name(), chosen),
    )
    return {
        "/": _description(),
        "/models": {"get": _list(), "post": _register()},
        "/models/{model_name}": _one_model((_model_name(),)),
        "/models/{model_name}/{model_version}": _one_model((_model_name(), version)),
        "/models/{model_name}/{model_version}/set-default": {"put": set_default},
        **_tail(),
    }


def metrics_paths() -> Document:
    """Return the paths of the metrics API."""
    names = _query("name[]", "Show only the sample of this name; may be repeated")
    text = {"description": "Prometheus text", "content": {"text/plain; version=0.0.4": {}}}
    return {"/metrics": {"get": _operation("metrics", "Show metrics.", {"200": text}, (names,))}}


def _document(title: str, version: str, paths: Document) -> Document:
    info = {"title": title, "description": _ABOUT, "version": version}
    return {"openapi": "3.0.1", "info": info, "paths": paths}


def _tail() -> Document:
    old = {**_description()["options"], "operationId": "api-description", "deprecated": True}
    return {"/api-description": {"get": old}, **metrics_paths()}


def _description() -> Document:
    answer = {"200": _answer("An OpenAPI 3.0.1 document", {"type": "object"})}
    return {"options": _operation("apiDescription", "Describe this API.", answer)}


def _predict(operation: str, more: Sequence[Document]) -> Document:
    responses = {"200": _ANY, **_errors("404", "500", "503")}
    call = _operation(
        operation,
        "Predict with a model.",
        responses,
        (_model_name(), *more),
        {"*/*": {"schema": {"type": "string", "format": "binary"}}},
    )
    return {"post": call}


def _list() -> Document:
    entry = {"modelName": {"type": "string"}, "modelUrl": {"type": "string"}}
    page = {
        "type": "object",
        "properties": {
            "nextPageToken": {"type": "string", "description": "Absent on the last page"},
            "models": {"type": "array", "items": {"type": "object", "properties": entry}},
        },
    }
    parameters = (
        _query("limit", "Models on a page, at most 100", "integer", "100"),
        _query("next_page_token", "Where the page starts", "string", "0"),
    )
    answer = {"200": _answer("One page of models", page)}
    return _operation("listModels", "List the models.", answer, parameters)


def _register() -> Document:
    parameters = (
        _query("url", "Archive in the model store, or a URL to load it from", required=True),
        _query("model_name", "Name; default is the archive's"),
        _query("handler", "Handler; default is the archive's"),
        _query("runtime", "Runtime; default is the archive's"),
        _query("batch_size", "Requests in a batch at most", "integer", "1"),
        _query("max_batch_delay", "Milliseconds to wait for a batch", "integer", "100"),
        _query("max_latency_ms", "Milliseconds to answer in; 0 for none", "integer", "0"),
        _query("initial_workers", "Workers to start", "integer", "0"),
        _query("synchronous", "Answer when the workers are up", "boolean", "true"),
        _query("response_timeout", "Seconds a worker has to answer", "integer", "120"),
        _query("startup_timeout", "Seconds a worker has to load", "integer", "120"),
        _query("s3_sse_kms", "The archive is encrypted by AWS KMS", "boolean", "false"),
    )
    responses = {
        "200": _answer("Registered", _STATUS),
        "202": _answer("Registered, workers are starting", _STATUS),
        "206": _answer("Registered, some workers are still missing", _STATUS),
        **_errors("400", "404", "409", "500"),
    }
    return _operation("registerModel", "Register a model.", responses, parameters)


def _one_model(path: Sequence[Document]) -> Document:
    custom = _query("customized", "Also ask the model's handler", "boolean", "false")
    scale = (
        _query("min_worker", "Workers at least", "integer", "1"),
        _query("max_worker", "Workers at most; default is min_worker", "integer", "1"),
        _query("synchronous", "Answer when the workers are up", "boolean", "false"),
    )
    found = _answer("The model's versions", {"type": "array", "items": {"type": "object"}})
    scaled = {
        "200": _answer("Scaled", _STATUS),
        "202": _answer("Workers are starting", _STATUS),
        "206": _answer("Some workers are still missing", _STATUS),
    }
    removed = {"200": _answer("Unregistered", _STATUS), **_errors("403", "404", "408")}
    return {
        "get": _operation(
            "describeModel",
            "Describe a model.",
            {"200": found, **_errors("404", "500")},
            (*path, custom),
        ),
        "put": _operation(
            "setAutoScale",
            "Change the number of workers.",
            {**scaled, **_errors("400", "404", "500")},
            (*path, *scale),
        ),
        "delete": _operation("unregisterModel", "Unregister a model.", removed, path),
    }


def _operation(
    name: str,
    about: str,
    responses: Document,
    parameters: Sequence[Document] = (),
    body: Document | None = None,
) -> Document:
    operation: Document = {
        "description": about,
        "operationId": name,
        "parameters": list(parameters),
    }
    if body is not None:
        operation["requestBody"] = {"content": body, "required": True}
    return {**operation, "responses": responses}


def _answer(about: str, schema: Document) -> Document:
    return {"description": about, "content": {_JSON: {"schema": schema}}}


def _errors(*codes: str) -> Document:
    return {code: _answer("Not possible; the message says why", _ERROR) for code in codes}


def _model_name() -> Document:
    return _path("model_name", "Name of the model")


def _path(name: str, about: str) -> Document:
    schema = {"type": "string"}
    return {"in": "path", "name": name, "description": about, "required": True, "schema": schema}


def _query(
    name: str, about: str, kind: str = "string", default: str | None = None, required: bool = False
) -> Document:
    schema = {"type": kind} if default is None else {"type": kind, "default": default}
    return {
        "in": "query",
        "name": name,
        "description": about,
        "required": required,
        "schema": schema,
    }
