"""`ts.context`: what handlers ask and set."""

from __future__ import annotations

import copy

import pytest

from ts.context import Context, RequestProcessor


@pytest.fixture
def context() -> Context:
    context = Context("tiny", "/models/tiny", {"model": {}}, 4, 0, "0.1.0")
    context.start_batch([{"Host": "a", "body": {"content-type": "x"}}, {}], {0: "r0", 1: "r1"})
    return context


def test_system_properties_have_torchserves_keys(context):
    assert context.system_properties == {
        "model_dir": "/models/tiny",
        "gpu_id": 0,
        "batch_size": 4,
        "server_name": "MMS",
        "server_version": "0.1.0",
        "limit_max_image_pixels": True,
    }
    with pytest.raises(AttributeError):
        context.system_properties = {}


def test_headers_are_looked_up_with_exact_case(context):
    assert context.get_request_header(0, "Host") == "a"
    assert context.get_request_header(0, "host") is None
    assert context.get_request_header(0, "body")["content-type"] == "x"
    assert context.get_all_request_header(1) == {}


def test_before_any_request_there_are_no_ids_and_no_processors():
    context = Context("tiny", "/m", None, 1, None, "0")
    assert context.request_ids is None
    assert context.request_processor is None
    assert context.get_request_id() is None
    assert context.model_yaml_config == {}
    context.set_response_status(404, "gone")  # as TorchServe: does nothing
    context.set_all_response_status(404)


def test_each_request_has_a_status_and_headers_of_its_own(context):
    context.set_response_status(404, "gone", 1)
    context.set_response_header(1, "X-A", "b")
    context.set_response_content_type(1, "text/plain")
    assert context.get_response_status(0) == (200, None)
    assert context.get_response_status(1) == (404, "gone")
    assert context.get_response_headers(0) == {}
    assert context.get_response_headers(1) == {"X-A": "b", "content-type": "text/plain"}
    assert context.get_response_content_type(1) == "text/plain"
    context.set_all_response_status(503, "later")
    assert [context.get_response_status(idx)[0] for idx in (0, 1)] == [503, 503]


def test_old_handlers_talk_to_the_request_processor(context):
    processor = context.request_processor[0]
    assert isinstance(processor, RequestProcessor)
    assert processor.get_request_property("Host") == "a"
    assert processor.get_request_properties()["Host"] == "a"
    processor.report_status(500, "broken")
    processor.add_response_property("X-B", "c")
    assert processor.get_response_status_code() == 500
    assert processor.get_response_status_phrase() == "broken"
    assert processor.get_response_header("X-B") == "c"
    assert context.get_response_headers(0) == {"X-B": "c"}


def test_sequence_headers_can_be_renamed_by_the_environment(monkeypatch):
    monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", "seq")
    context = Context("tiny", "/m", None, 1, None, "0")
    assert context.header_key_sequence_start == "ts_request_sequence_start"
    assert context.header_key_sequence_end == "ts_request_sequence_end"
    context.start_batch([{"seq": "s1"}], {0: "r"})
    assert context.get_sequence_id(0) == "s1"


def test_nothing_is_cancelled_without_a_probe_and_the_probe_gets_the_id(context):
    assert context.is_cancelled() is False
    asked = []
    context._cancel_probe = lambda request_id: asked.append(request_id) or request_id == "r1"
    assert [context.is_cancelled(0), context.is_cancelled(1)] == [False, True]
    assert context.is_cancelled(7) is False
    assert asked == ["r0", "r1"]


def test_handlers_may_hang_attributes_on_it_and_equality_sees_them(context):
    other = copy.copy(context)
    assert other == context
    other.cache = {"a": 1}
    assert other != context
    assert context != "context"


def test_old_handlers_reach_behind_the_properties(context):
    assert context._request_processor is context.request_processor
    context._request_processor = context.request_processor[:1]
    assert len(context.request_processor) == 1
    context.request_processor = None
    assert context._request_processor is None
    context.metrics = mine = object()
    assert context._metrics is mine
    context._metrics = None
    assert context.metrics is None
