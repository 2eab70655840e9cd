"""Convolutional models folded for a CPU: the answers of torchvision's models, and what is left."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torchvision import models

from tests.handlers.photos import photo
from tests.handlers.torch_files import save_exported, save_script
from ts.torch_handler import convnets
from ts.torch_handler.convnets import TOLERANCE, quicker

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="models are only folded where oneDNN is there"
)


@pytest.fixture(autouse=True)
def one_thread():
    """Several would turn in a loop while they wait for cores that other tests use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(model: nn.Module, seed: int = 3) -> nn.Module:
    """In evaluation mode, with batch norms that change something, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 1.5),
                (module.weight.data, 0.8, 1.2),
                (module.bias.data, -0.2, 0.2),
            ):
                tensor.uniform_(low, high, generator=generator)
    return model.eval()


def images(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(5)) * 4 - 2


def same(output):
    return output


def norms(model) -> int:
    """Batch norms that the graph still calls."""
    graph = model.model.graph
    modules = dict(model.model.named_modules())
    called = [modules[node.target] for node in graph.nodes if node.op == "call_module"]
    return sum(isinstance(module, nn.BatchNorm2d) for module in called)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121"])
def test_torchvisions_models_answer_within_the_tolerance(name):
    torch.manual_seed(1)
    model = lively(getattr(models, name)(weights=None))
    before = copy.deepcopy(model.state_dict())
    made = quicker(model, images, same)
    with torch.inference_mode():
        expected, found = model(images(4, 96)), made(images(4, 96))
    assert (found - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max())
    # What is left of DenseNet's stands before its convolutions.
    assert (norms(made) == 0) == (name != "densenet121")
    after = model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert all(tensor.is_contiguous() for tensor in after.values())


def test_the_weights_of_other_layers_are_shared():
    model = lively(models.resnet18(weights=None))
    made = quicker(model, images, same)
    assert made.model.fc.weight.data_ptr() == model.fc.weight.data_ptr()
    assert made.model.conv1.weight.data_ptr() != model.conv1.weight.data_ptr()


def test_a_scripted_model_is_frozen(tmp_path):
    torch.manual_seed(1)
    save_script(lively(models.resnet18(weights=None)), tmp_path / "m.pt")
    from ts.torch_handler.model_formats import load_torchscript

    model = load_torchscript(str(tmp_path / "m.pt"), torch.device("cpu")).eval()
    made = quicker(model, images, same)
    with torch.inference_mode():
        expected, found = model(images(4, 96)), made(images(4, 96))
    assert (found - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max())
    assert "batch_norm" in str(model.inlined_graph)
    assert "batch_norm" not in str(made.model.inlined_graph)


class Net(nn.Module):
    """A convolution and its batch norm, used in the ways that forbid to fold them."""

    def __init__(self, use: str = "plain") -> None:
        super().__init__()
        self.use = use
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.other = nn.BatchNorm2d(3)

    def forward(self, x):
        if self.use == "depends" and x.sum() > 0:
            return x
        y = self.conv(x)
        if self.use == "twice":
            return self.norm(self.conv(self.norm(y)))
        if self.use == "read":
            return self.norm(y) + y
        if self.use == "both":
            return self.norm(y) + self.other(y)
        return self.norm(y)


@pytest.mark.parametrize(
    ("use", "left"), [("plain", 0), ("twice", 2), ("read", 1), ("both", 2), ("depends", None)]
)
def test_only_a_convolution_that_its_norm_alone_reads_is_folded(use, left, caplog):
    caplog.set_level("INFO")
    torch.manual_seed(1)
    model = lively(Net(use))
    made = quicker(model, images, same)
    if left is None:
        assert made is None
        assert "The model runs as it is: TraceError" in caplog.text
        return
    assert norms(made) == left
    assert torch.allclose(made(images()), model(images()), atol=1e-5)


class Scaled(Net):
    def forward(self, x, factor=1.0):
        return super().forward(x) * factor


def test_further_arguments_reach_the_model():
    model = lively(Scaled())
    made = quicker(model, images, same)
    assert torch.allclose(made(images(), factor=3.0), model(images(), 3.0), atol=1e-5)


def test_a_hooked_model_stays_as_it_is():
    model = lively(Net())
    model.conv.register_forward_hook(lambda *_: None)
    assert quicker(model, images, same) is None


def test_an_answer_too_far_off_leaves_the_model_alone(caplog):
    caplog.set_level("INFO")
    model = lively(Net())
    far = iter((torch.zeros(2), torch.tensor([0.0, 2e-5]), torch.zeros(2), torch.tensor([0, 9e-6])))
    assert quicker(model, images, lambda _: next(far)) is None
    assert "folded, its answers are 2.0e-05 apart" in caplog.text
    assert quicker(model, images, lambda _: next(far)) is not None


class Odd(Net):
    def forward(self, x):
        return {"out": super().forward(x), "names": "these"}


@pytest.mark.parametrize("model", [nn.Linear(2, 2), len, Odd(), Net().half()])
def test_what_can_not_be_compared_stays(model):
    model = model.eval() if isinstance(model, nn.Module) else model
    assert quicker(model, images, same) is None


def test_not_a_number_is_no_agreement():
    assert quicker(lively(Net()), images, lambda output: output * float("nan")) is None


def test_without_onednn_nothing_is_done(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert quicker(lively(Net()), images, same) is None


MODEL_PY = """
from torchvision.models.resnet import BasicBlock, ResNet

class Classifier(ResNet):
    def __init__(self):
        super().__init__(BasicBlock, [1, 1, 1, 1])
"""
OWN_PY = """
from ts.torch_handler.image_classifier import ImageClassifier

class Own(ImageClassifier):
    pass
"""


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(2)
    return lively(models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1]))


def packed(model_dir, network, kind: str, yaml: str = "{}"):
    files = {"own.py": OWN_PY, "c.yaml": yaml}
    if kind == "eager":
        folder = model_dir(
            {**files, "model.py": MODEL_PY},
            modelFile="model.py",
            serializedFile="w.pth",
            configFile="c.yaml",
        )
        torch.save(network.state_dict(), folder / "w.pth")
        return folder
    folder = model_dir(files, serializedFile=f"m.{kind}", configFile="c.yaml")
    if kind == "pt":
        save_script(network, folder / "m.pt")
    else:
        save_exported(network, folder / "m.pt2", torch.zeros(2, 3, 224, 224))
    return folder


@pytest.mark.parametrize("kind", ["eager", "pt", "pt2"])
def test_the_classifier_answers_as_torchvision_does(load, infer, model_dir, network, kind):
    service = load(packed(model_dir, network, kind), "image_classifier")
    folded = isinstance(service.handler.model, convnets._ChannelsLast)
    assert folded == (kind != "pt2")
    rows = [{"body": photo(300, 260)}, {"body": photo(240, 320)}]
    outcome = infer(service, *rows)
    tensors = service.handler.preprocess(rows)
    with torch.inference_mode():
        probabilities = torch.softmax(network(tensors), dim=1)
    for prediction, row in zip(outcome.predictions, probabilities, strict=True):
        answer = json.loads(prediction.body)
        best = row.topk(5)
        assert list(answer) == [str(number) for number in best.indices.tolist()]
        assert list(answer.values()) == pytest.approx(best.values.tolist(), abs=1e-5)


@pytest.mark.parametrize("kind", ["eager", "pt"])
def test_explanations_of_a_folded_model_are_those_of_the_model(load, model_dir, network, kind):
    pytest.importorskip("captum")
    plain, folded = (
        load(packed(model_dir, network, kind, f"handler: {{optimize_cpu: {flag}}}"), handler)
        for flag, handler in (("false", "image_classifier"), ("true", "image_classifier"))
    )
    tensors = plain.handler.preprocess([{"body": photo(230, 230)}])
    expected, found = (
        torch.tensor(service.handler.get_insights(tensors, None, 3)) for service in (plain, folded)
    )
    assert expected.abs().max() > 0
    # A unit at its kink may go either way, which shows in single pixels.
    assert (found - expected).abs().max() <= TOLERANCE
    assert (found - expected).abs().mean() <= 1e-3 * expected.abs().mean()


@pytest.mark.parametrize(
    ("handler", "yaml", "folded"),
    [
        ("image_classifier", "{}", True),
        ("image_classifier", "handler: {optimize_cpu: false}", False),
        ("own.py", "{}", False),
        ("own.py", "handler: {optimize_cpu: true}", True),
        ("image_classifier", "pt2: {compile: {enable: true, backend: eager}}", False),
    ],
)
def test_who_may_be_folded(load, model_dir, network, handler, yaml, folded):
    service = load(packed(model_dir, network, "eager", yaml), handler)
    assert isinstance(service.handler.model, convnets._ChannelsLast) == folded


def test_a_flag_that_is_none_is_named(load, model_dir, network, caplog):
    yaml = "handler: {optimize_cpu: maybe, jpeg_draft: 1}"
    service = load(packed(model_dir, network, "eager", yaml), "image_classifier")
    assert isinstance(service.handler.model, convnets._ChannelsLast)
    assert "handler.optimize_cpu must be true or false, not 'maybe'" in caplog.text
    assert "handler.jpeg_draft must be true or false, not 1" in caplog.text
