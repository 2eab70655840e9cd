"""`ts.model_loader`: each rule by which a handler string finds its entry point."""

from __future__ import annotations

import sys
import uuid
import warnings

import pytest

from ts.model_loader import ModelLoaderFactory, TsModelLoader

FUNCTION = """
calls = []
def handle(data, context):
    calls.append(data)
    return None if data is None else ["handle"] * len(data)
def other(data, context):
    calls.append(data)
    return None if data is None else ["other"] * len(data)
"""

CLASS = """
class Handler:
    def initialize(self, context):
        self.name = context.model_name
    def handle(self, data, context):
        return [self.name] * len(data)
"""


def body(outcome) -> bytes:
    assert outcome.code == 200, outcome
    return outcome.predictions[0].body


def test_the_factory_makes_torchserves_loader():
    assert isinstance(ModelLoaderFactory.get_model_loader(), TsModelLoader)


@pytest.mark.parametrize("handler", ["my_handler", "my_handler.py", "dir/my_handler.py"])
def test_a_file_is_found_by_its_name(load, model_dir, infer, handler):
    service = load(model_dir({"my_handler.py": CLASS}), handler)
    assert body(infer(service, {})) == b"tiny"


@pytest.mark.parametrize(
    ("handler", "expected"),
    [("h", b"handle"), ("h:other", b"other"), ("h.py:other", b"other"), ("h:handle", b"handle")],
)
def test_a_function_is_called_once_without_data_to_load(load, model_dir, infer, handler, expected):
    service = load(model_dir({"h.py": FUNCTION}), handler)
    assert sys.modules["h"].calls == [None]
    assert body(infer(service, {})) == expected


def test_an_absolute_path_brings_its_folder(load, model_dir, infer, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "wf.py").write_text(FUNCTION)
    service = load(model_dir(), f"{tmp_path}/elsewhere/wf.py:other")
    assert body(infer(service, {})) == b"other"


def test_a_function_wins_over_a_class(load, model_dir, infer):
    assert body(infer(load(model_dir({"h.py": CLASS + FUNCTION}), "h"), {})) == b"handle"


def test_a_function_that_is_not_there_falls_back_to_the_class(load, model_dir, infer, caplog):
    assert body(infer(load(model_dir({"h.py": CLASS}), "h:nothing"), {})) == b"tiny"
    assert "There is no function nothing in module h: its class takes its place" in caplog.messages


@pytest.mark.parametrize("source", ["x = 1", FUNCTION, "class A:\n    def handle(self): pass"])
def test_a_function_that_is_not_there_is_named_where_there_is_no_class(load, model_dir, source):
    with pytest.raises(ValueError, match="no function nothing in module h, and no handler class"):
        load(model_dir({"h.py": source}), "h:nothing")


def test_handle_must_be_callable(load, model_dir):
    with pytest.raises(ValueError, match="handle in module h cannot be called"):
        load(model_dir({"h.py": "handle = 3"}), "h")


def test_helper_classes_do_not_count(load, model_dir, infer):
    helpers = "import enum, collections\nclass Kind(enum.Enum):\n    A = 1\n"
    source = helpers + "Row = collections.namedtuple('Row', 'x')\n" + CLASS
    assert body(infer(load(model_dir({"h.py": source}), "h"), {})) == b"tiny"


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("x = 1", r"\[\]"),
        (CLASS + CLASS.replace("Handler", "Other"), r"\[Handler, Other\]"),
        ("class A: pass\nclass B: pass", r"\[A, B\]"),
        ("from ts.torch_handler.base_handler import BaseHandler", r"\[\]"),
    ],
)
def test_no_or_several_handler_classes_are_refused(load, model_dir, source, names):
    expected = f"Expected only one class in custom service code or a function entry point {names}"
    with pytest.raises(ValueError, match=expected):
        load(model_dir({"h.py": source}), "h")


@pytest.mark.parametrize(
    ("source", "error", "said"),
    [
        ("class A:\n    def initialize(self, c): pass", ValueError, "Expect handle method in"),
        ("class A:\n    def handle(self, d, c): pass", AttributeError, "Expect initialize method"),
    ],
)
def test_the_class_needs_both_methods(load, model_dir, source, error, said):
    with pytest.raises(error, match=said):
        load(model_dir({"h.py": source}), "h")


def test_handle_is_read_from_the_instance(load, model_dir, infer):
    source = CLASS + "    def __init__(self):\n        self.handle = lambda d, c: ['mine']\n"
    assert body(infer(load(model_dir({"h.py": source}), "h"), {})) == b"mine"


ASYNC = """
class Handler:
    def initialize(self, context):
        raise AssertionError("too late")

    async def handle(self, data, context):
        return data
"""


@pytest.mark.parametrize("envelope", [None, "json"])
@pytest.mark.parametrize(
    ("source", "name"),
    [
        (ASYNC, r"Handler\.handle"),
        (ASYNC.replace("return data", "yield data"), r"Handler\.handle"),
        ("async def handle(data, context):\n    return data", "handle"),
        (
            "class Call:\n    async def __call__(self, data, context):\n        return data\n"
            "handle = Call()",
            "Call",
        ),
    ],
)
def test_a_coroutine_is_refused_before_it_loads_anything(load, model_dir, source, name, envelope):
    text = rf"^{name} is async def: asynchronous handlers \(asyncCommunication\) are not supported"
    with pytest.raises(ValueError, match=text):
        load(model_dir({"h.py": source}), "h", envelope=envelope)


MICRO_BATCHES = """
from ts.handler_utils.micro_batching import MicroBatching

class Handler:
    def {method}(self{context}):
        self.handle = MicroBatching(self)
    def handle(self, data, context):
        return ["taken"]
"""


@pytest.mark.parametrize("envelope", [None, "body"])
def test_a_handle_that_initialize_sets_comes_too_late_and_is_told(
    load, model_dir, infer, caplog, envelope
):
    source = MICRO_BATCHES.format(method="initialize", context=", context")
    service = load(model_dir({"h.py": source}), "h", envelope=envelope)
    assert body(infer(service, {})) == b"taken"
    (text,) = caplog.messages
    assert text.startswith("initialize of Handler has set self.handle, to no effect: ")


def test_a_handle_that_is_set_in_time_is_not_told(load, model_dir, caplog):
    source = MICRO_BATCHES.format(method="__init__", context="")
    source += "    def initialize(self, context):\n        self.context = context\n"
    load(model_dir({"h.py": source, "f.py": FUNCTION, "c.py": CLASS}), "h")
    load(model_dir(), "f")
    load(model_dir(), "c")
    assert caplog.messages == []


def test_the_archives_own_file_wins_over_a_built_in(load, model_dir, infer):
    service = load(model_dir({"image_classifier.py": CLASS}), "image_classifier")
    assert body(infer(service, {})) == b"tiny"


def test_a_built_in_is_found_by_its_name(load, model_dir):
    with pytest.raises(RuntimeError, match="No model weights could be loaded"):
        load(model_dir(), "base_handler")


def test_the_archives_own_file_wins_over_an_imported_module(load, model_dir, infer):
    import json
    import signal

    service = load(model_dir({"signal.py": CLASS}), "signal.py")
    assert body(infer(service, {})) == b"tiny"
    assert sys.modules["signal"] is signal
    assert sys.modules["json"] is json


def test_an_unknown_handler_names_the_folder_and_the_cure(load, model_dir):
    folder = model_dir()
    with pytest.raises(ModuleNotFoundError) as caught:
        load(folder, "nobody.py")
    assert f"there is no nobody.py in {folder}" in str(caught.value)
    assert "image_classifier" in str(caught.value)
    with pytest.raises(ModuleNotFoundError, match=r"Handler 'no\.body' was not found"):
        load(folder, "no.body")


def test_an_import_that_fails_in_the_handler_is_reported_as_itself(load, model_dir):
    folder = model_dir({"import_error.py": None})
    with pytest.raises(ModuleNotFoundError, match="a_package_that_does_not_exist") as caught:
        load(folder, "import_error.py")
    assert caught.value.name == "a_package_that_does_not_exist"
    assert caught.traceback[-1].path.name == "import_error.py"


def test_a_syntax_error_is_reported_with_file_and_line(load, model_dir):
    with pytest.raises(SyntaxError) as caught:
        load(model_dir({"broken/bad_syntax.py": None}), "bad_syntax.py")
    assert caught.value.filename.endswith("bad_syntax.py")
    assert caught.value.lineno == 4


def test_what_initialize_raises_passes_unchanged(load, model_dir):
    source = CLASS.replace("self.name = context.model_name", "raise KeyError('weights')")
    with pytest.raises(KeyError, match="weights"):
        load(model_dir({"h.py": source}), "h")


def test_without_a_handler_it_says_so(load, model_dir):
    with pytest.raises(ValueError, match="names no handler"):
        load(model_dir(), "")


def test_a_manifest_that_is_no_json_is_named(load, model_dir):
    folder = model_dir({"h.py": CLASS})
    for text, said in (("{", "MANIFEST.json is not valid JSON"), ("[]", "must hold an object")):
        (folder / "MAR-INF" / "MANIFEST.json").write_text(text)
        with pytest.raises(ValueError, match=said):
            load(folder, "h")


def test_without_a_manifest_it_is_none(load, tmp_path):
    (tmp_path / "h.py").write_text(CLASS)
    assert load(tmp_path, "h").context.manifest is None


def test_the_context_tells_what_the_server_told(load, model_dir, metrics):
    service = load(model_dir({"h.py": CLASS}), "h", gpu_id=2, batch_size=8)
    properties = service.context.system_properties
    assert (properties["gpu_id"], properties["batch_size"]) == (2, 8)
    assert service.context.metrics is metrics
    assert service.context.metrics.model_name == "tiny"
    assert service.context.manifest["model"]["modelName"] == "tiny"


def test_metrics_of_loading_belong_to_a_pseudo_request(load, model_dir, caplog):
    caplog.set_level("INFO", "ts.metrics.caching_metric")
    source = CLASS.replace("self.name =", "context.metrics.add_counter('Load', 1); self.name =")
    load(model_dir({"h.py": source}), "h")
    assert uuid.UUID(caplog.records[0].metric[-1])


def test_an_envelope_wraps_requests_but_not_loading(load, model_dir, infer):
    source = "seen = []\ndef handle(data, context):\n    seen.append(data)\n    return data\n"
    service = load(model_dir({"h.py": source}), "h", envelope="body")
    assert sys.modules["h"].seen == [None]
    assert body(infer(service, {"body": b"x"})) == b"x"


def test_an_unknown_envelope_names_the_known_ones(load, model_dir):
    with pytest.raises(ValueError, match="use one of body, json, kserve, kservev2"):
        load(model_dir({"h.py": CLASS}), "h", envelope="soap")


def test_only_the_torchscript_warning_is_hidden_and_only_while_loading(load, model_dir):
    jit = "warnings.warn('`torch.jit.load` is deprecated. Please', FutureWarning)\n"
    kept = "import warnings\nwarnings.filterwarnings('ignore', 'kept by the handler')\n"
    source = kept + CLASS.replace("self.name =", jit.strip() + "; self.name =")
    before = list(warnings.filters)
    load(model_dir({"h.py": source}), "h")
    added = [entry for entry in warnings.filters if entry not in before]
    assert len(added) == 1
    assert "kept by the handler" in added[0][1].pattern
    warnings.filters.remove(added[0])
    with pytest.raises(FutureWarning):
        exec(jit, {"warnings": warnings})


def test_loading_needs_no_metrics_cache(model_dir, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = model_dir({"alone_handler.py": CLASS})
    service = ModelLoaderFactory.get_model_loader().load("m", str(folder), "alone_handler")
    assert service.context.metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime"]
    del sys.modules["alone_handler"]
