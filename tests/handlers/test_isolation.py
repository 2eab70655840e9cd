"""Errors of single requests: who gets them, who is run again, and what is measured and logged."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

import pytest

from ts.handler_utils.utils import send_intermediate_predict_response
from ts.isolation import Part, settle
from ts.prediction import Outcome, Prediction
from ts.service import PREDICTION_METRIC, PredictionException, Service

FAILED = Outcome(503, "Prediction failed", [])


def service_of(handle: Callable, metrics: Any = None, isolate: object = False) -> Service:
    service = Service("tiny", "/nowhere", None, handle, None, 8, metrics_cache=metrics)
    service.context.model_yaml_config["isolateErrors"] = isolate
    service._isolate = isolate is True
    return service


def run(service: Service, *bodies: str) -> dict[int, Any]:
    """A batch as the worker runs it: by row, its body or the code and text of its error."""
    ids = {number: f"id{number}" for number in range(len(bodies))}

    def pick(numbers: list[int]) -> Any:
        rows = [{"body": bodies[number]} for number in numbers]
        heads = [{"was": number} for number in numbers]
        return heads, rows, {at: ids[number] for at, number in enumerate(numbers)}

    outcome = service.infer(*pick(list(ids)))
    parts = [Part(list(ids), outcome)]
    if outcome.code != 200:
        parts = list(service.settle(outcome, ids, pick))
    found: dict[int, Any] = {}
    for numbers, part in parts:
        answers = [one.body.decode() for one in part.predictions] or [part[:2]] * len(numbers)
        assert not found.keys() & set(numbers), "answered twice"
        found.update(zip(numbers, answers, strict=True))
    return found


def blaming(make: Callable[[int], Exception]) -> Callable:
    """A handler that blames its first row that says bad."""

    def handle(data, context):
        context.calls = [*getattr(context, "calls", []), dict(context.request_ids)]
        for at, row in enumerate(data):
            assert context.get_request_header(at, "was") is not None
            if row["body"] == "bad":
                raise make(at)
        return [row["body"] for row in data]

    return handle


def attributed(error: Exception, index: Any) -> Exception:
    error.request_index = index
    return error


@pytest.mark.parametrize(
    ("make", "answer"),
    [
        (lambda at: PredictionException("not a cat", 422, at), (422, "not a cat")),
        (lambda at: PredictionException("odd", request_index=[at]), (500, "odd")),
        (lambda at: attributed(ValueError("x"), at), (503, "Prediction failed")),
        (lambda at: attributed(MemoryError(), (at,)), (507, "Out of resources")),
        (lambda at: attributed(RuntimeError("CUDA error"), {at}), (507, "Out of resources")),
        (lambda at: attributed(PredictionException("x", 413), at), (413, "x")),
    ],
)
def test_a_blamed_row_alone_gets_the_error(make, answer):
    service = service_of(blaming(make))
    assert run(service, "a", "bad", "c") == {0: "a", 1: answer, 2: "c"}
    assert service.context.calls == [{0: "id0", 1: "id1", 2: "id2"}, {0: "id0", 1: "id2"}]


def test_each_bad_row_takes_one_more_call():
    service = service_of(blaming(lambda at: PredictionException("no", 400, at)))
    no = (400, "no")
    assert run(service, "bad", "b", "bad", "bad") == {0: no, 1: "b", 2: no, 3: no}
    assert len(service.context.calls) == 4
    assert run(service, "bad", "bad") == {0: no, 1: no}
    assert run(service, "bad") == {0: no}


def test_several_rows_may_be_blamed_at_once():
    def handle(data, context):
        bad = [at for at, row in enumerate(data) if row["body"] == "bad"]
        if bad:
            raise PredictionException("no", 400, bad)
        context.calls = getattr(context, "calls", 0) + 1
        return [row["body"] for row in data]

    service = service_of(handle)
    assert run(service, "bad", "b", "bad", "d") == {0: (400, "no"), 1: "b", 2: (400, "no"), 3: "d"}
    assert service.context.calls == 1


@pytest.mark.parametrize("index", [-1, 3, [0, 3], [], "0", 0.0, object()])
def test_an_index_that_names_no_row_fails_the_batch(index, caplog):
    error = PredictionException("no", 400, index)

    def handle(data, context):
        raise error

    assert run(service_of(handle), "a", "b", "c") == dict.fromkeys(range(3), (400, "no"))
    assert "names no requests of a batch of 3" in caplog.text


def test_an_error_without_an_index_fails_the_batch_as_ever():
    def handle(data, context):
        context.calls = getattr(context, "calls", 0) + 1
        raise PredictionException("no", 400)

    service = service_of(handle)
    assert run(service, "a", "b") == {0: (400, "no"), 1: (400, "no")}
    assert service.context.calls == 1


def test_the_log_names_the_request(caplog):
    run(service_of(blaming(lambda at: PredictionException("no", 400, at))), "a", "bad", "c")
    (record,) = [one for one in caplog.records if one.exc_info]
    assert record.getMessage() == "Prediction error (request id1)"


def picky(data, context):
    """Fails without saying whose fault it is."""
    if any(row["body"] == "bad" for row in data):
        raise ValueError("somewhere in there")
    if len(data) > 2:
        raise MemoryError
    if data[0]["body"] == "tuple":
        return ("not", "a list")
    return [row["body"] for row in data]


def test_isolated_rows_have_outcomes_of_their_own(caplog):
    service = service_of(picky, isolate=True)
    answers = run(service, "a", "bad", "c", "tuple")
    refused = (503, "Invalid model predict output")
    assert answers == {0: "a", 1: FAILED[:2], 2: "c", 3: refused}
    assert "A batch of 4 failed: 4 are run again, one by one" in caplog.messages
    assert "Invoking custom service failed. (request id1)" in caplog.messages


def test_a_batch_too_large_for_the_memory_is_answered_one_by_one():
    assert run(service_of(picky, isolate=True), "a", "b", "c") == {0: "a", 1: "b", 2: "c"}
    answers = run(service_of(picky), "a", "b", "c")
    assert answers == dict.fromkeys(range(3), (507, "Out of resources"))


def test_a_batch_of_one_is_not_run_again():
    calls = []

    def handle(data, context):
        calls.append(len(data))
        raise ValueError

    assert run(service_of(handle, isolate=True), "a") == {0: FAILED[:2]}
    assert calls == [1]


def test_a_blamed_row_is_taken_out_before_rows_are_isolated():
    def handle(data, context):
        bodies = [row["body"] for row in data]
        if "known" in bodies:
            raise PredictionException("known", 400, bodies.index("known"))
        if "bad" in bodies:
            raise ValueError
        return bodies

    answers = run(service_of(handle, isolate=True), "a", "known", "bad")
    assert answers == {0: "a", 1: (400, "known"), 2: FAILED[:2]}


@pytest.mark.parametrize("isolate", [False, True])
def test_a_row_that_has_begun_to_stream_is_not_run_again(isolate):
    def handle(data, context):
        if len(data) == 3:
            send_intermediate_predict_response(
                {1: "part"}, {1: context.request_ids[1]}, "Intermediate", 200, context
            )
            raise ValueError if isolate else PredictionException("no", 400, 0)
        return [row["body"] for row in data]

    service = service_of(handle, isolate=isolate)
    parts = []
    service.set_chunk_sink(lambda *part: parts.append(part[0]))
    answers = run(service, "a", "b", "c")
    begun = FAILED[:2] if isolate else (400, "no")
    assert answers == {0: "a" if isolate else begun, 1: begun, 2: "c"}
    assert parts == ["id1"]


def test_the_prediction_time_is_recorded_once_for_a_batch(metrics, caplog):
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")

    def recorded() -> list[tuple]:
        return [one.metric for one in caplog.records if hasattr(one, "metric")]

    for handle, isolate in (
        (picky, True),
        (blaming(lambda at: PredictionException("no", 400, at)), False),
    ):
        caplog.clear()
        run(service_of(handle, metrics, isolate), "a", "bad", "c")
        ((name, _, _, value, _, request_ids),) = recorded()
        assert (name, request_ids) == (PREDICTION_METRIC, "id0,id1,id2")
        assert value >= 0
    caplog.clear()
    run(service_of(picky, metrics, True), "bad", "bad")
    assert recorded() == []


def counting(data, context):
    """Counts each row, the batch, and the bad rows before it gives up."""
    for at in range(len(data)):
        context.metrics.add_counter("Rows", 1, at)
    context.metrics.add_counter("Batches", 1)
    bad = [at for at, row in enumerate(data) if row["body"] != "good"]
    if bad:
        context.metrics.add_error("Bad", 1)
        raise PredictionException("no", 400, bad[0] if data[bad[0]]["body"] == "bad" else None)
    return [row["body"] for row in data]


@pytest.mark.parametrize(
    ("isolate", "bodies", "batches", "errors"),
    [
        (False, ["good", "bad", "good"], ["id0,id2"], 1),
        (False, ["bad", "bad", "good", "good"], ["id2,id3"], 2),
        (False, ["bad", "bad"], ["id1"], 2),
        (False, ["bad", "sly", "good"], ["id1,id2"], 2),
        (False, ["sly", "good"], ["id0,id1"], 1),
        (False, ["good", "good"], ["id0,id1"], 0),
        (True, ["good", "sly", "bad"], ["id0", "id1", "id2"], 3),
        (True, ["good", "sly", "good"], ["id0", "id1", "id2"], 2),
        (False, ["bad"], ["id0"], 1),
    ],
)
def test_what_is_run_again_is_measured_once(metrics, caplog, isolate, bodies, batches, errors):
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    run(service_of(counting, metrics, isolate), *bodies)
    found = [one.metric for one in caplog.records if hasattr(one, "metric")]
    ids = {name: sorted(one[5] for one in found if one[0] == name) for name in ("Rows", "Batches")}
    assert ids["Rows"] == [f"id{number}" for number in range(len(bodies))]
    assert ids["Batches"] == batches
    assert sum(one[0] == "Bad" for one in found) == errors
    metrics.add_counter("Later", 1)
    assert caplog.records[-1].metric[0] == "Later"


def test_metrics_are_logged_with_the_first_answers_that_are_sure(metrics, caplog):
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    service = service_of(counting, metrics)
    ids = {0: "id0", 1: "id1"}
    failed = service.infer([{}, {}], [{"body": "bad"}, {"body": "good"}], ids)
    assert not caplog.messages[1:]  # but for the error
    parts = service.settle(failed, ids, lambda _: ([{}], [{"body": "good"}], {0: "id1"}))
    assert [next(parts).rows, next(parts).rows] == [[0], [1]]
    told = [one.metric[5] for one in caplog.records if hasattr(one, "metric")]
    assert told == ["id1", "id1"]  # its row and the batch
    parts.close()
    assert len([one for one in caplog.records if hasattr(one, "metric")]) == 4


def test_metrics_are_not_lost_with_a_worker_that_ends(metrics, caplog):
    def leave(data, context):
        context.metrics.add_counter("Rows", 1, 0)
        raise SystemExit(3)

    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    with pytest.raises(SystemExit):
        run(service_of(leave, metrics), "a", "b")
    assert [one.metric[0] for one in caplog.records] == ["Rows"]


def forking(data, context):
    child = os.fork()
    if not child:
        log = logging.getLogger("ts.metrics.caching_metric")
        log.addHandler(logging.StreamHandler(os.fdopen(2, "w")))
        log.setLevel(logging.INFO)
        context.metrics.add_counter("Child", 1)
        os._exit(0)
    os.waitpid(child, 0)
    return [row["body"] for row in data]


def test_a_child_process_measures_as_ever(metrics, capfd):
    """It would hold its metrics back for ever."""
    service = service_of(forking, metrics)
    run(service, "a", "b")
    assert "[METRICS]Child.Count:1" in capfd.readouterr().err


def test_before_the_first_row_alone_there_is_a_sign_of_life():
    """The server's time limit for an answer must not end a worker that is still at it."""
    good = Outcome(200, "", [Prediction(200, "", {}, b"x")])
    parts = list(settle(FAILED, 3, lambda rows: good, lambda at: False, True))
    assert [part.rows for part in parts] == [[], [0], [1], [2]]


@pytest.mark.parametrize("value", ["yes", 1, "true", None])
def test_is_on_for_true_alone(tmp_path, caplog, value):
    (tmp_path / "c.yaml").write_text(f"isolateErrors: {json.dumps(value)}\n")
    manifest = {"model": {"configFile": "c.yaml"}}
    assert not Service("t", str(tmp_path), manifest, None, None, 1)._isolate
    assert f"isolateErrors must be true or false, not {value!r}" in caplog.text
    (tmp_path / "c.yaml").write_text("isolateErrors: true\n")
    assert Service("t", str(tmp_path), manifest, None, None, 1)._isolate


def request(body: str, number: int) -> dict[str, Any]:
    value = {"name": "body", "contentType": "text/plain", "value": body}
    return {"requestId": b"id%d" % number, "headers": [], "parameters": [value]}


def test_on_torchserves_wire_the_error_is_the_rows_answer():
    """It has one code for a batch: the row's error travels as its status and its body."""

    def handle(data, context):
        bodies = [row["body"] for row in data]
        if "bad" in bodies:
            raise PredictionException("no", 404, bodies.index("bad"))
        return bodies

    sent = service_of(handle).predict([request("a", 0), request("bad", 1)])
    assert sent[:4] == (200).to_bytes(4, "big")
    assert (404).to_bytes(4, "big") in sent
    body = {"code": 404, "type": "InternalServerException", "message": "no"}
    assert json.dumps(body, indent=2).encode() in sent
    whole = service_of(handle).predict([request("bad", 0)])
    assert whole[:4] == (404).to_bytes(4, "big")
