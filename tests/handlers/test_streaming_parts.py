"""Streamed answers through the chunk sink, and other helpers of `ts.handler_utils.utils`."""

from __future__ import annotations

import collections

import pytest

from ts.handler_utils.utils import import_class, send_intermediate_predict_response
from ts.service import Prediction, Service


def test_parts_reach_the_sink_and_the_end_says_so(load, model_dir, infer):
    service = load(model_dir({"stream.py": None}), "stream.py")
    parts: list[tuple] = []
    service.set_chunk_sink(lambda *part: parts.append(part))
    outcome = infer(service, {"body": bytearray(b"2")}, {"body": bytearray(b"2")})
    streaming = {"ts_stream_next": "true"}
    assert parts == [
        (request_id, 200, "", streaming, f"part {number}\n".encode())
        for number in (0, 1)
        for request_id in ("id0", "id1")
    ]
    assert outcome.predictions == [Prediction(200, "", {"ts_stream_next": "false"}, b"end\n")] * 2


def test_a_micro_batchs_own_numbering_marks_the_right_request(infer):
    def handle(data, context):
        context.set_response_status(201, "made", 1)
        send_intermediate_predict_response(["x"], {0: "id1"}, "ok", 200, context)
        return ["a", "b"]

    service = Service("tiny", "/m", None, handle, None, 2)
    parts: list[tuple] = []
    service.set_chunk_sink(lambda *part: parts.append(part))
    outcome = infer(service, {}, {})
    assert parts == [("id1", 201, "made", {"ts_stream_next": "true"}, b"x")]
    assert [p.headers for p in outcome.predictions] == [{}, {"ts_stream_next": "false"}]


def test_a_part_with_another_code_ends_the_batch_with_it(infer):
    def handle(data, context):
        send_intermediate_predict_response(["x"], context.request_ids, "too hot", 429, context)
        return ["never"]

    service = Service("tiny", "/m", None, handle, None, 1)
    service.set_chunk_sink(lambda *part: pytest.fail("nothing may be sent"))
    outcome = infer(service, {})
    assert (outcome.code, outcome.message) == (429, "too hot")


def test_outside_a_worker_it_says_that_nobody_listens(infer):
    def handle(data, context):
        with pytest.raises(RuntimeError, match="Nobody is listening"):
            send_intermediate_predict_response(["x"], context.request_ids, "ok", 200, context)
        return ["x"]

    assert infer(Service("tiny", "/m", None, handle, None, 1), {}).code == 200


def test_a_class_is_found_by_either_form_of_its_name():
    assert import_class("collections.OrderedDict") is collections.OrderedDict
    assert import_class("OrderedDict", "collections") is collections.OrderedDict
    for name in ("", "OrderedDict", "collections.NoSuch", "no_such_module.Thing"):
        with pytest.raises(ImportError):
            import_class(name)
