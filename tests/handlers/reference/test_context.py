"""`Context` and `RequestProcessor`, row by row of the tables 5.1, 5.2 and 5.3."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ts.context import Context, RequestProcessor
from ts.service import Service

HEADERS: list[dict[str, Any]] = [
    {"Content-Type": "a/b", "seq": "s0", "body": {"content-type": "x/y"}},
    {"X-Two": "2"},
]


@pytest.fixture
def fresh() -> Context:
    """Before the first request."""
    return Context("registered", "/models/m", {"model": {"modelName": "own"}}, 4, 1, "0.12")


@pytest.fixture
def context(fresh: Context) -> Context:
    fresh.start_batch([dict(header) for header in HEADERS], {0: "r0", 1: "r1"})
    return fresh


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        pytest.param("model_name", "registered", id="5.1 the registered name"),
        pytest.param("manifest", {"model": {"modelName": "own"}}, id="5.1 manifest"),
        pytest.param("request_ids", None, id="5.1 no request ids yet"),
        pytest.param("request_processor", None, id="5.1 no processors yet"),
        pytest.param("metrics", None, id="5.1 metrics"),
        pytest.param("model_yaml_config", {}, id="5.1 no yaml"),
        pytest.param("stopping_criteria", None, id="5.1 stopping criteria"),
        pytest.param("cl_socket", None, id="5.1 no connection yet"),
        pytest.param("header_key_sequence_id", "ts_request_sequence_id", id="5.1 sequence id"),
        pytest.param("header_key_sequence_start", "ts_request_sequence_start", id="5.1 its start"),
        pytest.param("header_key_sequence_end", "ts_request_sequence_end", id="5.1 its end"),
    ],
)
def test_attributes_before_a_request(fresh: Context, attribute: str, value: object) -> None:
    assert getattr(fresh, attribute) == value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("model_dir", "/models/m", id="5.1 model_dir"),
        pytest.param("gpu_id", 1, id="5.1 gpu_id"),
        pytest.param("batch_size", 4, id="5.1 batch_size"),
        pytest.param("server_name", "MMS", id="5.1 server_name"),
        pytest.param("server_version", "0.12", id="5.1 server_version"),
        pytest.param("limit_max_image_pixels", True, id="5.1 limit_max_image_pixels"),
    ],
)
def test_system_properties(fresh: Context, key: str, value: object) -> None:
    assert fresh.system_properties[key] == value
    assert fresh.system_properties.get("else") is None


@pytest.mark.parametrize(
    ("method", "arguments", "value"),
    [
        pytest.param("get_request_id", (), "r0", id="5.1 the first id by default"),
        pytest.param("get_request_id", (1,), "r1", id="5.1 another id"),
        pytest.param("get_request_id", (7,), None, id="5.1 no such id"),
        pytest.param("get_request_header", (0, "Content-Type"), "a/b", id="5.1 header"),
        pytest.param("get_request_header", (0, "content-type"), None, id="5.1 exact case"),
        pytest.param("get_request_header", (1, "Content-Type"), None, id="5.1 of each request"),
        pytest.param("get_request_header", (0, "body"), {"content-type": "x/y"}, id="5.1 of input"),
        pytest.param("get_all_request_header", (1,), {"X-Two": "2"}, id="5.1 all headers"),
        pytest.param("get_response_status", (0,), (200, None), id="5.1 default status"),
        pytest.param("get_response_headers", (0,), {}, id="5.1 no response headers"),
        pytest.param("get_response_content_type", (0,), None, id="5.1 no content type"),
        pytest.param("get_sequence_id", (0,), None, id="5.1 no sequence"),
    ],
)
def test_questions(context: Context, method: str, arguments: tuple, value: object) -> None:
    assert getattr(context, method)(*arguments) == value


def test_answers_are_set_for_each_request(context: Context) -> None:
    context.set_response_status(404, "gone", 1)
    context.set_response_content_type(1, "text/html")
    context.set_response_header(1, "X-A", "b")
    assert context.get_response_status(1) == (404, "gone")
    assert context.get_response_headers(1) == {"content-type": "text/html", "X-A": "b"}
    assert context.get_response_headers(0) == {}
    context.set_response_status(idx=1)
    assert context.get_response_status(1) == (200, "")
    context.set_all_response_status(503, "later")
    assert [context.get_response_status(idx) for idx in (0, 1)] == [(503, "later")] * 2


@pytest.mark.parametrize(
    ("variable", "attribute"),
    [
        pytest.param("TS_REQUEST_SEQUENCE_ID", "header_key_sequence_id", id="5.1 id"),
        pytest.param("TS_REQUEST_SEQUENCE_START", "header_key_sequence_start", id="5.1 start"),
        pytest.param("TS_REQUEST_SEQUENCE_END", "header_key_sequence_end", id="5.1 end"),
    ],
)
def test_the_environment_names_the_sequence_headers(monkeypatch, variable, attribute) -> None:
    monkeypatch.setenv(variable, "seq")
    context = Context("m", "/m", None, 1, None, "0")
    assert getattr(context, attribute) == "seq"
    context.start_batch(HEADERS[:1], {0: "r"})
    if attribute.endswith("_id"):
        assert context.get_sequence_id(0) == "s0"


def test_one_object_for_a_models_life_with_what_a_handler_hangs_on_it(metrics) -> None:
    seen = []

    def handle(data, context):
        context.cache = [*getattr(context, "cache", []), context.get_request_id(0)]
        seen.append(context)
        return ["x"]

    service = Service("m", "/m", None, handle, None, 1, metrics_cache=metrics)
    for name in ("a", "b"):
        service.infer([{}], [{}], {0: name})
    assert seen == [service.context] * 2
    assert seen[0] is seen[1] is service.context
    assert service.context.cache == ["a", "b"]
    assert service.context.metrics is metrics


def test_an_asynchronous_request_gets_a_copy_with_shared_ways_out(
    context: Context, metrics
) -> None:
    context.metrics = metrics
    context.cache = {"shared": []}
    context.cl_socket, context._chunk_sink = object(), object()
    own = copy.deepcopy(context)
    own.cache["shared"].append(1)
    own.start_batch([{}], {0: "other"})
    own.metrics.set_request_ids({0: "other"})
    assert context.cache == {"shared": []}
    assert context.request_ids == {0: "r0", 1: "r1"}
    assert metrics.request_ids is None
    assert own.metrics.cache is metrics.cache
    assert own.cl_socket is context.cl_socket
    assert own._chunk_sink is context._chunk_sink


@pytest.mark.parametrize(
    ("call", "question", "value"),
    [
        pytest.param(None, ("get_request_property", "a"), 1, id="5.2 a property"),
        pytest.param(None, ("get_request_property", "A"), None, id="5.2 exact case"),
        pytest.param(None, ("get_request_properties",), {"a": 1}, id="5.2 all properties"),
        pytest.param(None, ("get_response_status_code",), 200, id="5.2 default status"),
        pytest.param(None, ("get_response_status_phrase",), None, id="5.2 default phrase"),
        pytest.param(("report_status", 500), ("get_response_status_code",), 500, id="5.2 status"),
        pytest.param(
            ("report_status", 500, "no"), ("get_response_status_phrase",), "no", id="5.2 phrase"
        ),
        pytest.param(None, ("get_response_headers",), {}, id="5.2 no headers"),
        pytest.param(None, ("get_response_header", "b"), None, id="5.2 no header"),
        pytest.param(
            ("add_response_property", "b", "c"), ("get_response_header", "b"), "c", id="5.2 header"
        ),
        pytest.param(
            ("add_response_property", "b", "c"),
            ("get_response_headers",),
            {"b": "c"},
            id="5.2 all headers",
        ),
    ],
)
def test_the_request_processor(call, question, value) -> None:
    processor = RequestProcessor({"a": 1})
    if call:
        getattr(processor, call[0])(*call[1:])
    assert getattr(processor, question[0])(*question[1:]) == value


def parameter(name: str, value: object, kind: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "contentType": kind}


@pytest.mark.parametrize(
    ("parameters", "row"),
    [
        pytest.param([], {}, id="5.3 a row without inputs"),
        pytest.param([parameter("body", b"x")], {"body": b"x"}, id="5.3 a body"),
        pytest.param(
            [parameter("a", 1), parameter("b", 2)], {"a": 1, "b": 2}, id="5.3 several inputs"
        ),
        pytest.param([parameter("a", 1), parameter("a", 2)], {"a": 2}, id="5.3 the last one wins"),
    ],
)
def test_rows(parameters, row) -> None:
    batch = [{"requestId": b"r", "parameters": parameters, "headers": []}]
    headers, rows, ids = Service.retrieve_data_for_inference(batch)
    assert (rows, ids) == ([row], {0: "r"})
    assert set(headers[0]) == set(row)


def test_headers_overlay_the_inputs_of_their_name() -> None:
    pair = {"name": b"body", "value": b"as text"}
    batch = [{"requestId": b"r", "parameters": [parameter("body", 1)], "headers": [pair]}]
    assert Service.retrieve_data_for_inference(batch)[0] == [{"body": "as text"}]
    with pytest.raises(ValueError, match="Received invalid inputs"):
        Service.retrieve_data_for_inference(None)
