"""`BaseHandler`, `timed` and `ts.utils.util`, row by row of the tables 6.2 to 6.8.

Not here: IPEX, XLA and xpu (6.4), whose packages are not at hand.
"""

from __future__ import annotations

import json
import logging
import sys
import types

import pytest
import torch

from tests.handlers.optional_packages import pretend
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.torch_handler import base_handler, compilation, devices
from ts.torch_handler.base_handler import BaseHandler
from ts.utils import util

MODEL = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([2.0]))

    def forward(self, x, add=0):
        return x * self.scale + add
"""


class Asked:
    """A context whose first request has one header."""

    model_yaml_config: dict = {}  # noqa: RUF012 - as the real one has

    def __init__(self, header: str = "", value: str = "True", metrics: object = None) -> None:
        self.header, self.value, self.metrics = header, value, metrics
        self.manifest = {"model": {"modelName": "tiny"}}

    def get_request_header(self, idx: int, key: str) -> str | None:
        return self.value if key == self.header else None


# 6.2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            pytest.param(name, None, id=f"6.2 {name}")
            for name in ("model", "mapping", "device", "context", "model_pt_path", "manifest")
        ),
        pytest.param("map_location", None, id="6.2 map_location"),
        pytest.param("initialized", False, id="6.2 initialized"),
        pytest.param("explain", False, id="6.2 explain"),
        pytest.param("target", 0, id="6.2 target"),
        pytest.param("profiler_args", {}, id="6.2 profiler_args"),
    ],
)
def test_attributes_of_a_new_handler(name, value) -> None:
    assert getattr(BaseHandler(), name) == value


# 6.3


@pytest.fixture
def handler() -> BaseHandler:
    handler = BaseHandler()
    handler.device = torch.device("cpu")
    handler.model = lambda x, *more, add=0: x + sum(more) + add
    return handler


def test_the_steps_default_to_tensors(handler: BaseHandler) -> None:
    prepared = handler.preprocess([[1, 2], [3, 4]])
    assert torch.equal(prepared, torch.tensor([[1, 2], [3, 4]]))
    inferred = handler.inference(prepared, 10, add=100)
    assert inferred.is_inference()
    assert handler.postprocess(inferred) == [[111, 112], [113, 114]]
    assert handler.get_device() == torch.device("cpu")
    assert handler.describe_handle() is None
    assert not hasattr(handler, "get_insights")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param({"data": "d", "body": "b"}, ("d", 0), id="6.3 data first"),
        pytest.param({"body": "b"}, ("b", 0), id="6.3 then body"),
        pytest.param({"body": "b", "target": 3}, ("b", 3), id="6.3 target"),
        pytest.param({"body": "b", "target": 0}, ("b", 0), id="6.3 target of zero"),
    ],
)
def test_explanations_take_the_first_row(handler, row, expected) -> None:
    handler.get_insights = lambda prepared, inputs, target: (prepared, inputs, target)
    assert handler.explain_handle("prepared", [row, {}]) == ("prepared", *expected)


@pytest.mark.parametrize(
    ("header", "value", "explain", "describe"),
    [
        pytest.param("explain", "True", True, False, id="6.3 explain"),
        pytest.param("explain", "False", False, False, id="6.3 explain is False"),
        pytest.param("explain", "true", False, False, id="6.3 only True is true"),
        pytest.param("describe", "True", False, True, id="6.3 describe"),
        pytest.param("", "", False, False, id="6.3 neither"),
    ],
)
def test_headers_choose(handler, header, value, explain, describe) -> None:
    handler.context = Asked(header, value)
    assert handler._is_explain() is explain
    assert handler.explain is explain
    assert handler._is_describe() is describe


@pytest.mark.parametrize(
    ("yaml", "value"),
    [
        pytest.param({}, False, id="6.3 no pt2"),
        pytest.param({"pt2": {"export": {"aot_compile": True}}}, True, id="6.3 aot_compile"),
        pytest.param({"pt2": {"export": {"aot_compile": False}}}, False, id="6.3 off"),
        pytest.param({"pt2": "inductor"}, False, id="6.3 pt2 is a str"),
    ],
)
def test_ahead_of_time_libraries_are_asked_for(handler, yaml, value) -> None:
    handler.model_yaml_config = yaml
    assert handler._use_torch_export_aot_compile() is value


# 6.4


@pytest.mark.parametrize(
    ("cuda", "mps", "gpu", "expected"),
    [
        pytest.param(True, False, 1, ("cuda", "cuda:1"), id="6.4 cuda"),
        pytest.param(True, False, None, ("cpu", "cpu"), id="6.4 no gpu given"),
        pytest.param(False, True, 0, ("mps", "mps"), id="6.4 mps"),
        pytest.param(False, True, None, ("cpu", "cpu"), id="6.4 mps needs a gpu id"),
        pytest.param(False, False, 0, ("cpu", "cpu"), id="6.4 no device"),
    ],
)
def test_the_device(monkeypatch, cuda, mps, gpu, expected) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 0))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    location, device = devices.choose(gpu)
    assert (location, str(device)) == expected


@pytest.mark.parametrize(
    ("model", "yaml", "called"),
    [
        pytest.param(
            {"modelFile": "model.py", "serializedFile": "w.pt"}, {}, "pickled", id="6.4 model file"
        ),
        pytest.param({"serializedFile": "w.pt"}, {}, "torchscript", id="6.4 .pt"),
        pytest.param({"serializedFile": "w.onnx"}, {}, "onnx", id="6.4 .onnx"),
        pytest.param(
            {"serializedFile": "w.so"},
            {"pt2": {"export": {"aot_compile": True}}},
            "aot",
            id="6.4 .so with aot_compile",
        ),
        pytest.param({"serializedFile": "w.so"}, {}, None, id="6.4 .so without"),
        pytest.param({"serializedFile": "w.pth"}, {}, None, id="6.4 .pth without a model file"),
        pytest.param({}, {}, None, id="6.4 no file at all"),
    ],
)
def test_how_a_model_is_loaded(monkeypatch, tmp_path, model, yaml, called) -> None:
    calls = []
    loaded = torch.nn.Identity()

    class Loaders(BaseHandler):
        def _load_pickled_model(self, model_dir, model_file, model_pt_path):
            calls.append(("pickled", model_file, model_pt_path))
            return loaded

        def _load_torchscript_model(self, model_pt_path):
            calls.append(("torchscript", model_pt_path))
            return loaded

        def _load_torch_export_aot_compile(self, model_so_path):
            calls.append(("aot", model_so_path))
            return loaded

    def session(path, location):
        calls.append(("onnx", path, location))
        return loaded

    monkeypatch.setattr(base_handler, "setup_ort_session", session)
    context = Context("m", str(tmp_path), {"model": model}, 1, None, "0", model_yaml_config=yaml)
    handler = Loaders()
    if called is None:
        with pytest.raises(RuntimeError, match="No model weights could be loaded"):
            handler.initialize(context)
        return
    handler.initialize(context)
    assert [call[0] for call in calls] == [called]
    assert handler.model_pt_path == str(tmp_path / model["serializedFile"])
    assert (handler.initialized, handler.map_location) == (True, "cpu")
    assert loaded.training is (called in ("onnx", "aot"))


def test_the_mapping_is_read_beside_the_model(tmp_path) -> None:
    (tmp_path / "model.py").write_text(MODEL.replace("Tiny", "Mapped"))
    (tmp_path / "index_to_name.json").write_text('{"0": "zero"}')
    manifest = {"model": {"modelFile": "model.py"}}
    handler = BaseHandler()
    handler.initialize(Context("m", str(tmp_path), manifest, 1, None, "0"))
    assert handler.mapping == {"0": "zero"}
    assert handler.manifest is manifest
    assert handler.model_yaml_config == {}


@pytest.mark.parametrize(
    ("pt2", "options"),
    [
        pytest.param(
            {"compile": {"enable": True, "backend": "inductor", "mode": "reduce-overhead"}},
            {"backend": "inductor", "mode": "reduce-overhead"},
            id="6.4 compile",
        ),
        pytest.param({"compile": {"enable": False, "mode": "x"}}, None, id="6.4 not enabled"),
        pytest.param({"export": {"aot_compile": True}}, None, id="6.4 export only"),
        pytest.param("inductor", {"backend": "inductor"}, id="6.4 a str is the backend"),
        pytest.param({"backend": "eager"}, {"backend": "eager"}, id="6.4 a dict of options"),
        pytest.param({"compile": {"enable": True, "backend": "x"}}, None, id="6.4 unknown backend"),
    ],
)
def test_what_the_yaml_compiles_with(pt2, options) -> None:
    assert compilation.compile_options({"pt2": pt2}) == options


@pytest.mark.parametrize("name", [backend.value for backend in util.PT2Backend])
def test_known_backends(name) -> None:
    assert util.check_valid_pt2_backend(name)


# 6.5


class Timed:
    def __init__(self, context: object) -> None:
        self.context = context

    @timed
    def preprocess(self, data):
        return data


@pytest.mark.parametrize(
    ("yaml", "emitted"),
    [
        pytest.param({"handler": {"profile": True}}, True, id="6.5 profile"),
        pytest.param({"handler": {"profile": False}}, False, id="6.5 off"),
        pytest.param({"handler": {}}, False, id="6.5 not said"),
        pytest.param({}, False, id="6.5 no section"),
    ],
)
def test_timed(metrics, caplog, yaml, emitted) -> None:
    caplog.set_level(logging.INFO)
    context = Context("m", "/m", None, 1, None, "0", metrics=metrics, model_yaml_config=yaml)
    assert Timed(context).preprocess(3) == 3
    assert ("[METRICS]ts_handler_preprocess.Milliseconds:" in caplog.text) is emitted
    assert ("type:GAUGE" in caplog.text) is emitted


# 6.6 and 6.7


class Steps(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([1.0])

    def inference(self, data, *args, **kwargs):
        return data * 2

    def describe_handle(self):
        return {"described": True}

    def get_insights(self, tensor_data, inputs, target):
        return ["explained", inputs]


@pytest.mark.parametrize(
    ("header", "profiler", "answer"),
    [
        pytest.param("", "", [2.0], id="6.6 a prediction"),
        pytest.param("explain", "", ["explained", "b"], id="6.6 an explanation"),
        pytest.param("describe", "", [{"described": True}], id="6.6 a description"),
        pytest.param("describe", "0", [2.0], id="6.6 the profiler comes first, for any value"),
        pytest.param("explain", "1", ["explained", "b"], id="6.7 a profiled explanation"),
    ],
)
def test_the_flow(monkeypatch, tmp_path, metrics, caplog, header, profiler, answer) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", profiler)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    caplog.set_level(logging.INFO)
    handler = Steps()
    metrics.set_request_ids("rid")
    context = Asked(header, metrics=metrics)
    assert handler.handle([{"body": "b"}], context) == answer
    assert handler.context is context
    assert "[METRICS]HandlerTime.Milliseconds:" in caplog.text
    assert (tmp_path / "pytorch_profiler" / "tiny").is_dir() is bool(profiler)


@pytest.mark.parametrize(
    ("header", "regions"),
    [
        pytest.param("", {"preprocess", "inference", "postprocess"}, id="6.7 of a prediction"),
        pytest.param("explain", {"preprocess", "explain"}, id="6.7 of an explanation"),
    ],
)
def test_regions_of_the_profile(monkeypatch, tmp_path, header, regions) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handler = Steps()
    handler.context = Asked(header)
    handler.profiler_args = {"activities": [torch.profiler.ProfilerActivity.CPU]}
    _, profile = handler._infer_with_profiler([{"body": "b"}])
    steps = {"preprocess", "inference", "postprocess", "explain"}
    assert {event.key for event in profile.key_averages()} & steps == regions


# 6.8


def test_classes_of_a_module() -> None:
    module = types.ModuleType("six_eight")
    exec("class B: pass\nclass A(B): pass\nfrom enum import Enum", module.__dict__)
    assert [cls.__name__ for cls in util.list_classes_from_module(module)] == ["A", "B"]
    assert util.list_classes_from_module(module, module.A) == [module.A]


@pytest.mark.parametrize(
    ("content", "mapping"),
    [
        pytest.param({"0": "World"}, {"0": "World"}, id="6.8 a name"),
        pytest.param({"0": ["n01", "tench"]}, {"0": "tench"}, id="6.8 the last of a list"),
        pytest.param(
            {"object_type_names": ["a", "b"]}, {"0": "a", "1": "b"}, id="6.8 object_type_names"
        ),
        pytest.param({"label_list": "[O, B]"}, {"label_list": "[O, B]"}, id="6.8 label_list"),
    ],
)
def test_label_mappings(tmp_path, content, mapping) -> None:
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(content))
    assert util.load_label_mapping(str(path)) == mapping


@pytest.mark.parametrize(
    ("arguments", "labels"),
    [
        pytest.param(([[0.1, 0.9]],), [{"0": 0.1, "1": 0.9}], id="6.8 numbers by default"),
        pytest.param(([[0.1]], {"0": "a"}), [{"a": 0.1}], id="6.8 a mapping"),
        pytest.param(([[0.1]], {"7": "a"}, [[7]]), [{"a": 0.1}], id="6.8 classes"),
        pytest.param(
            ([[0.1, 0.2]], {"0": "a", "1": "a"}), [{"a": 0.2}], id="6.8 equal labels collapse"
        ),
        pytest.param(([],), [], id="6.8 nothing"),
    ],
)
def test_labels_of_probabilities(arguments, labels) -> None:
    assert util.map_class_to_label(*arguments) == labels


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        pytest.param("<b>x</b>", "x", id="6.8 tags"),
        pytest.param("a&amp;b&#12;c&#xaf;d", "abcd", id="6.8 references"),
        pytest.param("&#1234567;", "&#1234567;", id="6.8 too long for one"),
    ],
)
def test_markup(text, clean) -> None:
    assert util.CLEANUP_REGEX.sub("", text) == clean


def test_exceptions_and_yaml(tmp_path) -> None:
    error = util.PredictionException("gone", 404)
    assert (str(error), error.message, error.error_code) == ("gone : 404", "gone", 404)
    assert util.PredictionException("x").error_code == 500
    (tmp_path / "c.yaml").write_text("a: [1]\n")
    assert util.get_yaml_config(str(tmp_path / "c.yaml")) == {"a": [1]}


@pytest.mark.parametrize("name", ["IntegratedGradients", "LayerIntegratedGradients"])
def test_captum_is_imported_when_an_explanation_is_asked_for(monkeypatch, name) -> None:
    from ts.torch_handler.text_handler import TextHandler
    from ts.torch_handler.vision_handler import VisionHandler

    pretend(monkeypatch, "captum.attr")
    monkeypatch.setattr(sys.modules["captum.attr"], name, lambda *made: made, raising=False)
    handler = VisionHandler() if name == "IntegratedGradients" else TextHandler()
    handler.model = types.SimpleNamespace(embedding="layer")
    if name == "IntegratedGradients":
        assert handler.ig == (handler.model,)
    else:
        assert handler.lig == (handler.model, "layer")
