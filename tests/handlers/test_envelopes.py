"""The request envelopes, one request at a time and in batches."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

DOUBLE = """
def handle(data, context):
    if data is None:
        return None
    handle.seen = data
    return [[2 * number for number in row] for row in data]
"""
B64 = base64.b64encode(b"raw").decode()


@pytest.fixture
def enveloped(load, model_dir):
    def make(envelope, source=DOUBLE):
        return load(model_dir({"h.py": source}), "h", envelope=envelope)

    return make


def answers(outcome) -> list:
    assert outcome.code == 200, outcome
    return [json.loads(prediction.body) for prediction in outcome.predictions]


def seen(service):
    return service._entry_point.__self__._handle_fn.seen


def body(**content) -> dict:
    return {"body": content}


def test_body_hands_over_the_data_itself(enveloped, infer):
    assert answers(infer(enveloped("body"), {"data": [1]}, {"body": [2, 3]})) == [[2], [4, 6]]


def test_json_splits_and_regroups_the_instances(enveloped, infer):
    service = enveloped("json")
    rows = [body(instances=[[1], [2]]), {"instances": [[3]]}, {"data": b'{"instances": [[4]]}'}]
    outcome = infer(service, *rows)
    assert answers(outcome) == [
        {"predictions": [[2], [4]]},
        {"predictions": [[6]]},
        {"predictions": [[8]]},
    ]
    # The text that TorchServe's envelope makes, not the indented form.
    assert outcome.predictions[1].body == b'{"predictions": [[6]]}'
    assert seen(service) == [[1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("results", "first", "second"),
    [("['a', 'b']", ["a", "b"], []), ("list('abcdef')", ["a", "b"], ["c", "d"])],
)
def test_json_cuts_results_as_torchserve_does(enveloped, infer, results, first, second):
    service = enveloped("json", f"def handle(data, context):\n    return {results}")
    rows = [body(instances=[1, 2]), body(instances=[3, 4])]
    assert answers(infer(service, *rows)) == [{"predictions": first}, {"predictions": second}]


def test_json_decodes_base64(enveloped, infer):
    source = (
        "def handle(data, context):\n    handle.seen = data\n    return ['x'] * len(data or [])"
    )
    service = enveloped("json", source)
    infer(service, body(instances=[{"b64": B64}, {"image": {"b64": B64}, "n": 1}]))
    assert seen(service) == [b"raw", {"image": b"raw", "n": 1}]


def test_kserve_answers_one_request_with_what_the_handler_returned(enveloped, infer):
    service = enveloped("kserve")
    assert answers(infer(service, body(instances=[[1], [2]]))) == [{"predictions": [[2], [4]]}]
    raw = {"body": bytearray(b'{"instances": [[5]]}')}
    assert answers(infer(service, raw)) == [{"predictions": [[10]]}]


def test_kserve_answers_every_request_of_a_batch(enveloped, infer):
    rows = [body(instances=[[1], [2]]), body(instances=[[3]])]
    headers = [{"explain": "False"}, {"explain": "True"}]
    assert answers(infer(enveloped("kserve"), *rows, headers=headers)) == [
        {"predictions": [[2], [4]]},
        {"explanations": [[6]]},
    ]


def test_kserve_refuses_results_it_cannot_divide(enveloped, infer, caplog):
    source = "def handle(data, context):\n    return ['only one']"
    service = enveloped("kserve", source)
    outcome = infer(service, body(instances=[[1], [2]]), body(instances=[[3]]))
    assert (outcome.code, outcome.message) == (503, "Prediction failed")
    assert "1 results for 3 instances" in str(caplog.records[-1].exc_info[1])


BAD = {
    "json": [{"body": b"{"}, body(instances=[{"b64": "x"}]), body(instances=7), body(other=[1])],
    "kserve": [{"body": b"{"}, body(instances=7), body(other=[1]), {}],
    "kservev2": [
        {"body": b"{"},
        body(inputs=[{"name": "a", "shape": [3], "datatype": "FP32", "data": [1]}]),
        body(inputs=[{"shape": [1], "datatype": "FP32", "data": [1]}]),
        body(),
    ],
}


@pytest.mark.parametrize("envelope", list(BAD))
def test_requests_that_cannot_be_read_are_to_blame_alone(enveloped, infer, envelope):
    good = body(instances=[[1]], inputs=[tensor("a", [1], [1])])
    outcome = infer(enveloped(envelope), good, *BAD[envelope], good)
    assert outcome[:2] == (503, "Prediction failed")
    assert outcome.blamed == (1, 2, 3, 4)


BLAMING = """
def handle(data, context):
    if data is not None:
        error = ValueError("some of these")
        error.request_index = {index}
        raise error
"""


@pytest.mark.parametrize("envelope", ["json", "kserve", "kservev2"])
@pytest.mark.parametrize(
    ("index", "blamed"),
    [("0", (0,)), ("2", (2,)), ("[1, 2, 3]", (0, 2)), ("4", ()), ("-1", ()), ("'2'", ())],
)
def test_a_row_that_is_to_blame_is_an_error_of_its_request(
    enveloped, infer, envelope, index, blamed
):
    sizes = (2, 0, 2)
    rows = [body(instances=[[1]] * n, inputs=[tensor("a", [1], [1])] * n) for n in sizes]
    outcome = infer(enveloped(envelope, BLAMING.replace("{index}", index)), *rows)
    assert outcome.blamed == blamed


def test_behind_the_envelope_body_rows_are_requests(enveloped, infer):
    outcome = infer(enveloped("body", BLAMING.replace("{index}", "1")), body(), body())
    assert outcome.blamed == (1,)


def tensor(name, data, shape, datatype="FP32") -> dict:
    return {"name": name, "shape": shape, "datatype": datatype, "data": data}


SUM = """
import numpy as np
def handle(data, context):
    if data is None:
        return None
    handle.seen = data
    handle.names = (context.input_names, getattr(context, "input_request_id", None))
    return [np.array(item["data"], dtype="int64") * 2 for item in data]
"""


def test_kservev2_shapes_the_inputs_and_names_the_outputs(enveloped, infer):
    service = enveloped("kservev2", SUM)
    inputs = [tensor("a", [1, 2, 3, 4], [2, 2]), tensor("b", [5], [1], "INT32")]
    (answer,) = answers(infer(service, body(id="mine", inputs=inputs)))
    assert answer == {
        "id": "mine",
        "model_name": "tiny",
        "model_version": "1.0",
        "outputs": [
            {"name": "a", "datatype": "INT64", "data": [2, 4, 6, 8], "shape": [4]},
            {"name": "b", "datatype": "INT64", "data": [10], "shape": [1]},
        ],
    }
    handle = service._entry_point.__self__._handle_fn
    assert handle.seen[0]["data"] == [[1.0, 2.0], [3.0, 4.0]]
    assert handle.names == (["a", "b"], "mine")
    assert not hasattr(service.context, "input_names")
    assert not hasattr(service.context, "input_request_id")


def test_kservev2_leaves_numbers_as_they_are(enveloped, infer):
    service = enveloped("kservev2", SUM)
    inputs = [tensor("a", [0.1, 300], [2]), tensor("b", [300], [1], "UINT8")]
    inputs.append(tensor("c", [1], [1], "BF16"))
    infer(service, body(inputs=inputs))
    seen = service._entry_point.__self__._handle_fn.seen
    assert [item["data"] for item in seen] == [[0.1, 300], [300], [1]]


def test_kservev2_takes_the_requests_id_where_the_client_gave_none(enveloped, infer):
    rows = [body(id=" ", inputs=[tensor("a", [1], [1])]), body(inputs=[tensor("b", [2], [1])] * 2)]
    first, second = answers(infer(enveloped("kservev2", SUM), *rows))
    assert (first["id"], second["id"]) == ("id0", "id1")
    assert [output["data"] for output in second["outputs"]] == [[4], [4]]


def test_kservev2_bytes_are_the_first_element_and_text_is_bytes(enveloped, infer):
    source = "def handle(data, context):\n    return data and [[data[0]['data']]]"
    inputs = [tensor("t", ["hello"], [1], "BYTES")]
    (answer,) = answers(infer(enveloped("kservev2", source), body(inputs=inputs)))
    assert answer["outputs"] == [
        {"name": "t", "datatype": "BYTES", "data": ["hello"], "shape": [1]}
    ]


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [
        ("bool", "BOOL"),
        ("uint8", "UINT8"),
        ("int64", "INT64"),
        ("float16", "FP16"),
        ("float64", "FP64"),
        ("object", "BYTES"),
        ("U1", "BYTES"),
    ],
)
def test_kservev2_datatypes(dtype, datatype):
    from ts.torch_handler.request_envelope.kservev2 import _output

    assert _output("x", np.array([1], dtype=dtype))["datatype"] == datatype


def test_an_empty_result_passes_unchanged(enveloped, infer):
    service = enveloped("json", "def handle(data, context):\n    return []")
    assert infer(service, body(instances=[])).message == "number of batch response mismatched"
