"""`ts.service.Service`: the table of results and errors, in TorchServe's words."""

from __future__ import annotations

import logging

import pytest

from ts.service import PREDICTION_METRIC, Prediction, PredictionException, Service, emit_metrics
from ts.version import __version__


def service_of(handle, metrics=None, **kwargs) -> Service:
    return Service("tiny", "/nowhere", None, handle, None, 4, metrics_cache=metrics, **kwargs)


def test_every_row_is_answered_in_order_with_the_same_context(infer):
    seen = []

    def handle(data, context):
        seen.append(context)
        assert context.request_ids == {0: "id0", 1: "id1"}
        context.state = getattr(context, "state", 0) + 1
        return [row["body"] for row in data]

    service = service_of(handle)
    outcome = infer(service, {"body": b"a"}, {"body": bytearray(b"b")})
    assert outcome.code == 200
    assert outcome.message == "Prediction success"
    assert outcome.predictions == [Prediction(200, "", {}, b"a"), Prediction(200, "", {}, b"b")]
    infer(service, {"body": b"c"}, {"body": b"d"})
    assert seen[0] is seen[1] is service.context
    assert service.context.state == 2
    assert service.context.system_properties["server_version"] == __version__


class Unsayable(Exception):
    """An error of a user's class whose text can't be made."""

    def __str__(self):
        return str(1 / 0)


@pytest.mark.parametrize(
    ("error", "code", "message", "logged"),
    [
        (MemoryError(), 507, "Out of resources", "System out of memory"),
        (PredictionException("no such thing", 404), 404, "no such thing", "Prediction error"),
        (PredictionException("odd"), 500, "odd", "Prediction error"),
        (PredictionException("odd", None), 500, "odd", "Prediction error"),
        (PredictionException("fine?", 200), 500, "fine?", "Prediction error"),
        (PredictionException("odd", 99), 500, "odd", "Prediction error"),
        (PredictionException("odd", 600), 500, "odd", "Prediction error"),
        (PredictionException("odd", float("inf")), 500, "odd", "Prediction error"),
        (RuntimeError("CUDA error: 2"), 507, "Out of resources", "CUDA out of memory"),
        (KeyError("x"), 503, "Prediction failed", "Invoking custom service failed."),
        (Unsayable(), 503, "Prediction failed", "Invoking custom service failed."),
        (
            PredictionException(Unsayable(), 400),
            400,
            "<its __str__ raised ZeroDivisionError>",
            "Prediction error",
        ),
    ],
)
def test_a_handlers_error_answers_the_whole_batch(infer, caplog, error, code, message, logged):
    def handle(data, context):
        raise error

    outcome = infer(service_of(handle), {}, {})
    assert (outcome.code, outcome.message, outcome.predictions) == (code, message, [])
    assert caplog.records[0].getMessage() == logged
    assert caplog.records[0].exc_info[1] is error


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (("a", "b"), "Invalid model predict output"),
        (None, "Invalid model predict output"),
        ({"a": 1}, "Invalid model predict output"),
        (["a"], "number of batch response mismatched"),
        ([], "number of batch response mismatched"),
        (["a", object()], "Unsupported model output data type."),
        (["a", {"x": {1, 2}}], "Unsupported model output data type."),
        (["a", "\ud800"], "Unsupported model output data type."),
    ],
)
def test_unusable_results_answer_503(infer, result, message):
    outcome = infer(service_of(lambda data, context: result), {}, {})
    assert (outcome.code, outcome.message, outcome.predictions) == (503, message, [])


@pytest.mark.parametrize("exit_type", [SystemExit, KeyboardInterrupt])
def test_leaving_the_process_passes(infer, exit_type):
    def handle(data, context):
        raise exit_type

    with pytest.raises(exit_type):
        infer(service_of(handle), {})


def test_status_reason_and_headers_are_the_handlers_and_become_text(infer):
    def handle(data, context):
        context.set_response_status(404, "no cat", 0)
        context.set_response_header(0, "X-Count", 3)
        context.set_response_header(0, "X-Raw", b"raw")
        context.set_response_content_type(1, "text/plain")
        context.request_processor[1].report_status(None)
        return ["none", "one"]

    first, second = infer(service_of(handle), {}, {}).predictions
    assert first == Prediction(404, "no cat", {"X-Count": "3", "X-Raw": "raw"}, b"none")
    assert second == Prediction(200, "", {"content-type": "text/plain"}, b"one")


def test_a_status_that_is_no_number_does_not_end_the_worker(infer):
    def handle(data, context):
        context.set_response_status("teapot")
        return ["x"]

    assert infer(service_of(handle), {}).code == 503


def test_one_batchs_headers_do_not_reach_the_next(infer):
    def handle(data, context):
        if data[0].get("first"):
            context.set_response_header(0, "X-Secret", "1")
        return ["x"]

    service = service_of(handle)
    assert infer(service, {"first": True}).predictions[0].headers == {"X-Secret": "1"}
    assert infer(service, {}).predictions[0].headers == {}


def test_prediction_time_is_recorded_for_success_only(infer, metrics, caplog):
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    infer(service_of(lambda data, context: ["x"] * len(data), metrics), {}, {})
    (record,) = [record for record in caplog.records if hasattr(record, "metric")]
    name, unit, kind, value, labels, request_ids = record.metric
    assert (name, unit, kind, request_ids) == (
        PREDICTION_METRIC,
        "Milliseconds",
        "gauge",
        "id0,id1",
    )
    assert labels == [("ModelName", "tiny"), ("Level", "Model")]
    assert 0 <= value < 1000
    caplog.clear()
    infer(service_of(lambda data, context: None, metrics), {})
    assert not [record for record in caplog.records if hasattr(record, "metric")]


def test_stopping_criteria_decide_whether_a_stream_goes_on(infer):
    answers = {0: True, 1: False, 2: None}

    def handle(data, context):
        context.stopping_criteria = {
            idx: lambda value, answer=answer: answer for idx, answer in answers.items()
        }
        return ["a", "b", "c"]

    predictions = infer(service_of(handle), {}, {}, {}).predictions
    assert [prediction.headers for prediction in predictions] == [
        {"ts_stream_next": "false"},
        {"ts_stream_next": "true"},
        {},
    ]


def test_the_cancel_probe_is_asked_for_the_requests_id(infer):
    service = service_of(lambda data, context: [str(context.is_cancelled(i)) for i in (0, 1)])
    service.set_cancel_probe(lambda request_id: request_id == "id1")
    assert [p.body for p in infer(service, {}, {}).predictions] == [b"False", b"True"]


def test_rows_and_headers_of_torchserves_wire():
    batch = [
        {
            "requestId": bytearray(b"r0"),
            "headers": [{"name": b"Host", "value": b"h"}, {"name": b"body", "value": b"over"}],
            "parameters": [
                {"name": "data", "contentType": "text/plain", "value": "x"},
                {"name": "body", "contentType": "", "value": bytearray(b"y")},
                {"name": "data", "contentType": "", "value": "last"},
            ],
        }
    ]
    headers, rows, ids = Service.retrieve_data_for_inference(batch)
    assert headers == [{"data": {"content-type": ""}, "body": "over", "Host": "h"}]
    assert rows == [{"data": "last", "body": bytearray(b"y")}]
    assert ids == {0: "r0"}
    with pytest.raises(ValueError, match="Received invalid inputs"):
        Service.retrieve_data_for_inference(None)


def test_emit_metrics_logs_a_line_each(caplog):
    caplog.set_level(logging.INFO, "ts.service")
    emit_metrics(["a", "b"])
    assert caplog.messages == ["[METRICS]a", "[METRICS]b"]


def test_the_models_yaml_reaches_the_context(tmp_path):
    (tmp_path / "c.yaml").write_text("handler:\n  profile: true\n")
    manifest = {"model": {"configFile": "c.yaml"}}
    service = Service("tiny", str(tmp_path), manifest, None, None, 1)
    assert service.context.model_yaml_config == {"handler": {"profile": True}}
    (tmp_path / "c.yaml").write_text("")
    assert Service("t", str(tmp_path), manifest, None, None, 1).context.model_yaml_config == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [("a: [1,", "not valid YAML"), ("- a\n", "must hold a mapping"), (None, "cannot be read")],
)
def test_a_bad_yaml_is_named(tmp_path, text, said):
    if text is not None:
        (tmp_path / "c.yaml").write_text(text)
    manifest = {"model": {"configFile": "c.yaml"}}
    with pytest.raises(ValueError, match=said) as caught:
        Service("tiny", str(tmp_path), manifest, None, None, 1)
    assert "c.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)
