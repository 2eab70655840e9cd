"""Model files of every kind as `BaseHandler` loads them, and files that are not what they seem."""

from __future__ import annotations

import json
import os
import sys
import types
import warnings

import pytest
import torch

from tests.handlers.torch_files import MODEL_PY, Tiny, save_exported, save_onnx, save_script
from ts.torch_handler import model_formats, weights
from ts.torch_handler.base_handler import BaseHandler, setup_ort_session
from ts.torch_handler.unit_tests.test_utils.mock_context import MockContext

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


def test_torchscript_loads_without_a_warning(load, infer, model_dir):
    folder = model_dir(serializedFile="m.pt")
    save_script(Tiny(), folder / "m.pt")
    assert run(load, infer, folder) == FOUR


def test_torch_export_is_a_pt2(load, infer, model_dir):
    folder = model_dir(serializedFile="m.pt2")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    assert run(load, infer, folder) == FOUR


@pytest.mark.slow
def test_an_aotinductor_package_is_a_pt2_too(load, infer, model_dir):
    folder = model_dir(serializedFile="m.pt2")
    program = torch.export.export(Tiny().eval(), (torch.zeros(2, 3),))
    path = str(folder / "m.pt2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch._inductor.aoti_compile_and_package(program, package_path=path)
    assert run(load, infer, folder) == FOUR


def test_onnx_runs_in_onnxruntime(load, infer, model_dir):
    pytest.importorskip("onnxruntime")
    folder = model_dir(serializedFile="m.onnx")
    save_onnx(folder / "m.onnx")
    assert run(load, infer, folder) == [[11.0, 22.0, 33.0], [10.0, 20.0, 30.0]]


def test_onnx_with_two_outputs_gives_a_tuple_of_tensors(tmp_path):
    pytest.importorskip("onnxruntime")
    save_onnx(tmp_path / "m.onnx", outputs=2)
    handler = BaseHandler()
    handler.device = torch.device("cpu")
    handler.model = setup_ort_session(str(tmp_path / "m.onnx"), "cpu")
    threads = handler.model.get_session_options().intra_op_num_threads
    assert threads == torch.get_num_threads()
    summed, clipped = handler.inference(torch.tensor([[-1.0, 0.0, 1.0]]))
    assert summed.tolist() == [[9.0, 20.0, 31.0]]
    assert clipped.tolist() == [[0.0, 0.0, 1.0]]


def test_without_onnxruntime_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeError, match="pip install onnxruntime"):
        setup_ort_session(str(tmp_path / "m.onnx"), "cpu")


def test_an_eager_model_is_built_and_filled(load, infer, model_dir):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth")
    assert run(load, infer, folder) == FOUR


def test_an_eager_model_without_weights_keeps_its_own(load, infer, model_dir):
    own = MODEL_PY.replace(
        "(3, 2)\n",
        """(3, 2)
        self.linear.load_state_dict(
            {"weight": torch.tensor([[1.0] * 3, [0.0] * 3]), "bias": torch.tensor([0.0, 1.0])}
        )
""",
    )
    assert run(load, infer, model_dir({"model.py": own}, modelFile="model.py")) == FOUR


def mapped_files() -> set[str]:
    with open("/proc/self/maps") as maps:
        return {line.split(maxsplit=5)[-1].strip() for line in maps}


def loaded_model(folder, path) -> torch.nn.Module:
    sys.modules.pop("model", None)
    sys.path.insert(0, str(folder))
    try:
        return model_formats.load_eager(str(folder), "model.py", str(path), torch.device("cpu"))
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("model", None)


def test_weights_of_an_unpacked_archive_are_mapped_not_copied(model_dir):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth")
    model = loaded_model(folder, folder / "w.pth")
    assert str(folder / "w.pth") in mapped_files()
    assert model(torch.ones(1, 3)).tolist() == [[3.0, 1.0]]
    with torch.no_grad():
        model.linear.weight.zero_()  # changes this process's pages, not the file
    assert torch.load(folder / "w.pth")["linear.weight"].sum() == 3


def test_weights_in_a_folder_of_the_users_are_copied(model_dir, tmp_path):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth")
    link = tmp_path / "link"
    link.symlink_to(folder)
    model = loaded_model(link, link / "w.pth")
    assert str(folder / "w.pth") not in mapped_files()
    assert model(torch.ones(1, 3)).tolist() == [[3.0, 1.0]]


def test_weights_of_another_type_are_converted_to_the_models(model_dir):
    folder = eager(model_dir)
    torch.save(Tiny().half().state_dict(), folder / "w.pth")
    model = loaded_model(folder, folder / "w.pth")
    assert model.linear.weight.dtype == torch.float32


def test_weights_in_the_old_format_load(model_dir):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth", _use_new_zipfile_serialization=False)
    assert loaded_model(folder, folder / "w.pth")(torch.ones(1, 3)).tolist() == [[3.0, 1.0]]


def weights_of(folder, source, state) -> torch.nn.Module:
    (folder / "model.py").write_text("import torch\n" + source)
    torch.save(state, folder / "w.pth")
    return loaded_model(folder, folder / "w.pth")


def test_a_models_own_load_state_dict_is_called_as_torchserve_calls_it(model_dir):
    source = """
class Own(torch.nn.Linear):
    def __init__(self):
        super().__init__(3, 2)
    def load_state_dict(self, checkpoint):
        super().load_state_dict(checkpoint["state_dict"])
"""
    state = Tiny().linear.state_dict()
    model = weights_of(eager(model_dir), source, {"epoch": 3, "state_dict": state})
    assert torch.equal(model.weight, state["weight"])


def test_a_submodules_own_way_of_loading_is_kept(model_dir):
    source = """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        class Doubling(torch.nn.Linear):
            def _load_from_state_dict(self, state, prefix, *rest):
                state[prefix + "weight"] = state[prefix + "weight"] * 2
                super()._load_from_state_dict(state, prefix, *rest)
        self.linear = Doubling(3, 2)
"""
    model = weights_of(eager(model_dir), source, Tiny().state_dict())
    assert torch.equal(model.linear.weight, Tiny().linear.weight * 2)


def test_hooks_of_loading_are_run(model_dir):
    source = """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.register_load_state_dict_post_hook(clear)
def clear(module, keys):
    module.linear.bias.data.zero_()
"""
    model = weights_of(eager(model_dir), source, Tiny().state_dict())
    assert model.linear.bias.tolist() == [0, 0]


def test_parameters_that_a_model_also_keeps_elsewhere_are_filled(model_dir):
    source = """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.kept = [self.linear.weight, self.norm.running_mean]
"""
    norm = torch.nn.BatchNorm1d(2)
    norm.running_mean.fill_(7)
    linear = Tiny().state_dict()
    state = {**linear, **{f"norm.{name}": value for name, value in norm.state_dict().items()}}
    folder = eager(model_dir)
    model = weights_of(folder, source, state)
    assert str(folder / "w.pth") in mapped_files()
    assert torch.equal(model.kept[0], linear["linear.weight"])
    assert model.kept[1].tolist() == [7, 7]
    assert model.linear.weight.requires_grad


def test_views_of_a_models_parameters_see_the_weights_too(model_dir):
    source = """
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.flat = self.linear.weight.detach().view(-1)
"""
    model = weights_of(eager(model_dir), source, Tiny().state_dict())
    assert model.flat.tolist() == [1, 1, 1, 0, 0, 0]


def test_a_wrapper_that_is_no_module_loads_and_need_not_return_itself(load, model_dir, infer):
    source = """
import torch
class Wrapper:
    def __init__(self):
        self.net = torch.nn.Linear(3, 2)
    def load_state_dict(self, state):
        self.net.load_state_dict(state)
    def to(self, device):
        self.net.to(device)
    def eval(self):
        self.net.eval()
    def __call__(self, x):
        return self.net(x)
"""
    folder = eager(model_dir)
    (folder / "model.py").write_text(source)
    torch.save(Tiny().linear.state_dict(), folder / "w.pth")
    assert run(load, infer, folder) == FOUR


class Pickled:
    """An object that torch.load(weights_only=True) refuses."""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"epoch": 1, "state_dict": Tiny().state_dict()}, "under the key 'state_dict'"),
        ([1, 2], "holds a list, not weights"),
        (
            Pickled(),
            r"Pickled.*torch\.save\(model\.state_dict\(\), path\).*weights_only=false in the",
        ),
    ],
)
def test_a_file_that_is_no_state_dict_names_the_cure(model_dir, content, said):
    folder = eager(model_dir)
    torch.save(content, folder / "w.pth")
    with pytest.raises(ValueError, match=said) as caught:
        loaded_model(folder, folder / "w.pth")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"junk" * 100, b"<html>not here</html>", b"\x80", "cut"])
def test_a_damaged_file_is_named_as_such(model_dir, content):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth")
    whole = (folder / "w.pth").read_bytes()
    (folder / "w.pth").write_bytes(whole[:-100] if content == "cut" else content)
    with pytest.raises(
        ValueError, match=r"w\.pth \(\d+ bytes\) is damaged, or no file of torch"
    ) as caught:
        loaded_model(folder, folder / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_trusted_file_may_hold_objects(tmp_path, monkeypatch):
    torch.save(Pickled(), tmp_path / "w.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    assert isinstance(weights.read(str(tmp_path / "w.pth"), "cpu"), Pickled)


def test_weights_of_another_model_are_refused(model_dir):
    folder = eager(model_dir)
    torch.save(torch.nn.Linear(2, 2).state_dict(), folder / "w.pth")
    with pytest.raises(RuntimeError, match=r"linear\.weight"):
        loaded_model(folder, folder / "w.pth")


def test_a_model_file_must_exist_and_hold_one_class(load, model_dir):
    folder = model_dir(modelFile="model.py")
    (folder / "h.py").write_text(ROWS)
    with pytest.raises(RuntimeError, match=r"Missing the model\.py file"):
        load(folder, "h")
    (folder / "model.py").write_text(MODEL_PY + "class Block(torch.nn.Module): pass\n")
    expected = r"Expected only one class as model definition. \[Block, Tiny\]"
    with pytest.raises(ValueError, match=expected):
        load(folder, "h")


@pytest.mark.parametrize(
    ("name", "save", "said"),
    [
        ("m.pt", lambda p: torch.save(Tiny().state_dict(), p), "weights without a model.*--model"),
        (
            "m.pt",
            lambda p: save_exported(Tiny(), p, torch.zeros(2, 3)),
            r"torch\.export archive\. Name it \.pt2",
        ),
        ("m.pt2", lambda p: save_script(Tiny(), p), r"TorchScript archive\. Name it \.pt"),
        ("m.pt", lambda p: p.write_bytes(b"damaged"), "no zip file"),
        ("m.pt2", lambda p: p.write_bytes(b"damaged"), "no zip file"),
        ("m.pth", lambda p: p.write_bytes(b""), r"could be loaded: .*m\.pth\. Pack a \.pt"),
        ("m.so", lambda p: p.write_bytes(b""), "could be loaded"),
    ],
)
# Saving an export below a name that does not end in .pt2 warns.
@pytest.mark.filterwarnings("ignore:Expect archive file")
def test_a_file_of_another_kind_says_what_it_is(load, model_dir, name, save, said):
    folder = model_dir(serializedFile=name)
    if name == "m.pt" and "export" in said:
        save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
        os.rename(folder / "m.pt2", folder / "m.pt")
    else:
        save(folder / name)
    with pytest.raises((ValueError, RuntimeError), match=said):
        load(folder, "base_handler")


def test_a_file_that_is_missing_says_so(load, model_dir):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load(model_dir(serializedFile="m.pt"), "base_handler")
    with pytest.raises(RuntimeError, match="the archive names no serialized file"):
        load(model_dir(), "base_handler")


def test_the_device_is_the_assigned_gpu_or_the_cpu(monkeypatch):
    from ts.torch_handler import devices

    assert devices.choose(None) == ("cpu", torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (7, 5))
    assert devices.choose(1) == ("cuda", torch.device("cuda:1"))
    assert devices.choose(None) == ("cpu", torch.device("cpu"))
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda gpu: (8, 0))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    devices.choose(0)
    assert asked == ["high"]


def test_tensorrt_is_imported_where_it_is_installed(tmp_path, monkeypatch):
    # TensorRT's TorchScript archives load only once its package has registered its operators.
    (tmp_path / "torch_tensorrt.py").write_text("imported = True\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    save_script(Tiny(), tmp_path / "m.pt")
    model_formats.load_torchscript(str(tmp_path / "m.pt"), torch.device("cpu"))
    assert isinstance(sys.modules.pop("torch_tensorrt"), types.ModuleType)


def test_the_mock_context_initialises_a_handler(model_dir):
    folder = eager(model_dir)
    torch.save(Tiny().state_dict(), folder / "w.pth")
    handler = BaseHandler()
    handler.initialize(MockContext("w.pth", str(folder), "model.py", gpu_id=None))
    try:
        assert handler.initialized
        assert handler.get_device() == torch.device("cpu")
        assert handler.inference(torch.ones(1, 3)).tolist() == [[3.0, 1.0]]
    finally:
        sys.modules.pop("model", None)
        sys.path.remove(str(folder))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA device")
def test_on_a_gpu_each_kind_answers_from_there(load, infer, model_dir):
    folder = model_dir(serializedFile="m.pt2")
    save_exported(Tiny(), folder / "m.pt2", torch.zeros(2, 3))
    assert run(load, infer, folder, gpu_id=0) == FOUR
