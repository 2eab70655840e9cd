"""`BaseHandler`: compiling by the model's yaml, and the flow of `handle`."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from tests.handlers.torch_files import MODEL_PY, Tiny, save_exported

ROWS = """
from ts.torch_handler.base_handler import BaseHandler
class Numbers(BaseHandler):
    def preprocess(self, data):
        return super().preprocess([row["body"] for row in data])
"""
X = {"body": [1.0, 2.0, 3.0]}
FOUR = [[6.0, 1.0], [0.0, 1.0]]


def answers(outcome) -> list:
    assert outcome.code == 200, outcome
    return [json.loads(prediction.body) for prediction in outcome.predictions]


def run(load, infer, folder, **kwargs) -> list:
    (folder / "numbers_handler.py").write_text(ROWS)
    return answers(infer(load(folder, "numbers_handler", **kwargs), X, {"body": [0.0, 0.0, 0.0]}))


def eager(model_dir, name="w.pth"):
    return model_dir({"model.py": MODEL_PY}, serializedFile=name, modelFile="model.py")


@pytest.mark.parametrize(
    ("yaml", "logged"),
    [
        ("pt2: {compile: {enable: true, backend: eager}}", "Compiled model with backend eager"),
        (
            "pt2: {compile: {enable: true, backend: inductor, mode: reduce-overhead}}",
            "Compiled model with backend inductor, mode reduce-overhead",
        ),
        ("pt2: eager", "Compiled model with backend eager"),
        ("pt2: {backend: eager}", "Compiled model with backend eager"),
        ("pt2: {compile: {enable: false, backend: eager}}", None),
        ("pt2: {compile: {enable: true, backend: magic}}", None),
        ("pt2: {compile: {enable: true, nonsense: 1}}", None),
        ("pt2: {export: {aot_compile: true}}", None),
        ("", None),
    ],
)
def test_the_yaml_compiles_the_model(load, model_dir, caplog, yaml, logged):
    caplog.set_level("INFO", "ts")
    folder = model_dir({"c.yaml": yaml}, serializedFile="m.pt2", configFile="c.yaml")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    load(folder, "base_handler")
    compiled = [text for text in caplog.messages if text.startswith("Compiled")]
    assert compiled == ([logged] if logged else [])


def test_a_compiled_model_answers(load, infer, model_dir):
    yaml = "pt2: {compile: {enable: true, backend: eager}}"
    folder = model_dir(
        {"model.py": MODEL_PY, "c.yaml": yaml},
        modelFile="model.py",
        serializedFile="w.pth",
        configFile="c.yaml",
    )
    torch.save(Tiny().state_dict(), folder / "w.pth")
    assert run(load, infer, folder) == FOUR


@pytest.mark.parametrize(
    ("yaml", "error", "said"),
    [
        ("pt2: 3", ValueError, "pt2 should be str or dict"),
        ("pt2: {compile: {}}", KeyError, "enable"),
    ],
)
def test_a_bad_pt2_key_is_an_error(load, model_dir, yaml, error, said):
    folder = model_dir({"c.yaml": yaml}, serializedFile="m.pt2", configFile="c.yaml")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    with pytest.raises(error, match=said):
        load(folder, "base_handler")


FLOW = """
from ts.torch_handler.base_handler import BaseHandler
class Flow(BaseHandler):
    def __init__(self):
        pass  # many handlers skip the base's
    def initialize(self, context):
        pass
    def preprocess(self, data):
        return [row["body"] for row in data]
    def inference(self, data):
        return [number + 1 for number in data]
    def postprocess(self, data):
        return [number * 10 for number in data]
    def describe_handle(self):
        return {"inputs": "numbers"}
    def get_insights(self, data, inputs, target):
        return [{"data": data, "inputs": inputs, "target": target}]
"""


def test_the_flow_of_a_handler_that_skips_the_bases_init(load, infer, model_dir, caplog):
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    service = load(model_dir({"h.py": FLOW}), "h")
    assert answers(infer(service, {"body": 1}, {"body": 2})) == [20, 30]
    names = [record.metric[0] for record in caplog.records]
    assert names == ["HandlerTime", "PredictionTime"]
    assert caplog.records[0].metric[1:3] == ("Milliseconds", "gauge")


def test_tensor_cores_are_used_though_a_handler_skips_the_bases_initialize(
    load, model_dir, monkeypatch
):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (8, 0))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    folder = model_dir({"h.py": FLOW, "plain.py": "def handle(data, context):\n    return data"})
    load(folder, "h")
    assert asked == []
    load(folder, "h", gpu_id=0)
    assert asked == ["high"]
    monkeypatch.delitem(sys.modules, "ts.torch_handler.base_handler")
    load(folder, "plain", gpu_id=0)
    assert asked == ["high"]


def test_headers_ask_for_an_explanation_or_a_description(load, infer, model_dir):
    service = load(model_dir({"h.py": FLOW}), "h")
    explained = infer(service, {"data": 7, "body": 1, "target": 3}, headers=[{"explain": "True"}])
    assert answers(explained) == [{"data": [1], "inputs": 7, "target": 3}]
    described = infer(service, {}, headers=[{"describe": "True"}])
    assert answers(described) == [{"inputs": "numbers"}]
    assert answers(infer(service, {"body": 1}, headers=[{"explain": "False"}])) == [20]


def test_an_explanation_of_a_row_that_is_no_dict_has_no_inputs(load, infer, model_dir):
    source = FLOW.replace('[row["body"] for row in data]', "data")
    service = load(model_dir({"h.py": source}), "h", envelope="body")
    explained = infer(service, {"body": [7]}, headers=[{"explain": "True"}])
    assert answers(explained) == [{"data": [[7]], "inputs": None, "target": 0}]


def test_the_profilers_names_are_the_base_handlers_too():
    from torch import profiler

    from ts.torch_handler import base_handler

    for name in ("profile", "record_function", "ProfilerActivity"):
        assert getattr(base_handler, name) is getattr(profiler, name)


def test_the_profiler_writes_a_trace(load, infer, model_dir, monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "ts")
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    folder = model_dir(serializedFile="m.pt2")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    assert run(load, infer, folder) == FOUR
    assert list((tmp_path / "tmp" / "pytorch_profiler" / "tiny").glob("*.json"))
    assert any("postprocess" in text for text in caplog.messages)


def test_a_profiled_step_is_recorded_when_the_yaml_asks(load, infer, model_dir, caplog):
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    yaml = "handler: {profile: true}"
    folder = model_dir({"c.yaml": yaml}, serializedFile="m.pt2", configFile="c.yaml")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    run(load, infer, folder)
    names = [record.metric[0] for record in caplog.records if hasattr(record, "metric")]
    steps = [f"ts_handler_{step}" for step in ("preprocess", "inference", "postprocess")]
    assert names == [*steps, "HandlerTime", "PredictionTime"]
