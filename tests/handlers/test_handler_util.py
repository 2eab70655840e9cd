"""`ts.utils.util`, `ts.handler_utils.timer` and `ts` itself."""

from __future__ import annotations

import json
import time
import types
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import pytest

import ts
from ts.handler_utils.timer import timed
from ts.utils import util
from ts.version import __version__


def test_the_package_tells_its_version():
    assert ts.__version__ == __version__
    assert __version__[0].isdigit()
    with pytest.raises(AttributeError, match="no_such"):
        _ = ts.no_such


@pytest.mark.parametrize(
    ("content", "mapping"),
    [
        ({"0": "cat"}, {"0": "cat"}),
        ({"0": ["n021", "cat"], "1": "dog"}, {"0": "cat", "1": "dog"}),
        ({"object_type_names": [None, 7, []]}, {"0": None, "1": 7, "2": []}),
        ({"object_type_names": ["none", ["n1", "cat"]]}, {"0": "none", "1": "cat"}),
    ],
)
def test_the_forms_of_index_to_name(tmp_path, content, mapping):
    path = tmp_path / "index_to_name.json"
    path.write_text(json.dumps(content))
    assert util.load_label_mapping(str(path)) == mapping


@pytest.mark.parametrize("text", ['["cat"]', '{"0": 1}', '{"0": []}', '{"0": ["a", 2]}', "{"])
def test_another_form_is_an_error(tmp_path, text):
    path = tmp_path / "index_to_name.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="index_to_name"):
        util.load_label_mapping(str(path))


def test_without_the_file_there_is_a_warning_and_no_mapping(tmp_path, caplog):
    assert util.load_label_mapping(str(tmp_path / "none.json")) is None
    assert "index_to_name.json" in caplog.messages[0]


def test_probabilities_get_labels():
    assert util.map_class_to_label([[0.9, 0.1]]) == [{"0": 0.9, "1": 0.1}]
    mapping = {"3": "cat", "7": "dog"}
    labelled = util.map_class_to_label([[0.9, 0.1]], mapping, [[7, 3]])
    assert [list(row.items()) for row in labelled] == [[("dog", 0.9), ("cat", 0.1)]]
    with pytest.raises(KeyError):
        util.map_class_to_label([[0.9]], mapping, [[5]])
    rows = [(0.9, 0.1), np.array([0.5, 0.5])]
    assert util.map_class_to_label(rows) == [{"0": 0.9, "1": 0.1}, {"0": 0.5, "1": 0.5}]
    assert util.map_class_to_label([{"x": 1}.items()], None, ["a"]) == [{"a": ("x", 1)}]
    with pytest.raises(TypeError, match="mapping must be a dict"):
        util.map_class_to_label([[0.9]], ["cat"])  # type: ignore[arg-type]
    for wrong in ([0.9], ((0.9,),)):
        with pytest.raises(TypeError, match="tolist"):
            util.map_class_to_label(wrong)  # type: ignore[arg-type]


def test_classes_of_a_module_are_its_own_by_name():
    module = types.ModuleType("mine")
    exec("class B: pass\nclass A(B): pass\nx = 1", module.__dict__)
    module.OrderedDict = OrderedDict  # type: ignore[attr-defined]
    assert [cls.__name__ for cls in util.list_classes_from_module(module)] == ["A", "B"]
    (only,) = util.list_classes_from_module(module, module.A)  # type: ignore[attr-defined]
    assert only.__name__ == "A"


def test_backends_are_checked(caplog):
    assert util.check_valid_pt2_backend("inductor")
    assert not util.check_valid_pt2_backend("magic")
    assert caplog.messages == ["magic is not a supported backend"]
    assert util.PT2Backend.IPEX == "ipex"


def test_markup_is_found():
    assert util.CLEANUP_REGEX.sub("", "<b>a</b>&amp;&#39;&#x2f;b & c") == "ab & c"


def test_a_prediction_exception_shows_both():
    error = util.PredictionException("gone", 410)
    assert (str(error), error.message, error.error_code) == ("gone : 410", "gone", 410)


def test_deprecated_warns_and_runs():
    @util.deprecated("2.0", replacement="new")
    def old(x):
        """Doc."""
        return x + 1

    with pytest.warns(PendingDeprecationWarning, match=r"old .* 2\.0, please use new"):
        assert old(1) == 2
    assert old.__name__ == "old"


class Timed:
    def __init__(self, config) -> None:
        recorded = self.recorded = []
        metrics = SimpleNamespace(add_time=lambda *args: recorded.append(args))
        self.context = SimpleNamespace(model_yaml_config=config, metrics=metrics)

    @timed
    def preprocess(self, data, extra=1):
        """Doc."""
        time.perf_counter()
        return data + extra


def test_steps_are_timed_when_the_yaml_asks():
    handler = Timed({"handler": {"profile": True}})
    assert handler.preprocess(1, extra=2) == 3
    ((name, value, idx, unit),) = handler.recorded
    assert (name, idx, unit) == ("ts_handler_preprocess", None, "ms")
    assert 0 <= value < 1000
    assert Timed.preprocess.__name__ == "preprocess"
    assert Timed.preprocess.__doc__ == "Doc."


@pytest.mark.parametrize("config", [None, {}, {"handler": None}, {"handler": {"profile": False}}])
def test_otherwise_they_are_not(config):
    handler = Timed(config)
    assert handler.preprocess(1) == 2
    assert handler.recorded == []
    del handler.context
    assert handler.preprocess(1) == 2
