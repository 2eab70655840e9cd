"""A TorchServe user's handler, unmodified, on a TorchScript ResNet-18."""

from __future__ import annotations

import base64
import io
import json

import pytest
import torch
from PIL import Image
from torchvision.models import resnet18

from tests.handlers.torch_files import save_script


@pytest.fixture(scope="module")
def scripted(tmp_path_factory):
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("resnet") / "resnet18.pt"
    save_script(resnet18(weights=None), path)
    return path


def photo() -> bytes:
    pixels = torch.arange(320 * 240 * 3).remainder(251).to(torch.uint8)
    stream = io.BytesIO()
    Image.frombytes("RGB", (320, 240), bytes(pixels.tolist())).save(stream, "PNG")
    return stream.getvalue()


def test_it_classifies_bytes_and_base64_by_top_five(load, infer, model_dir, scripted):
    names = json.dumps({str(number): [f"n{number}", f"class {number}"] for number in range(1000)})
    files = {"resnet_topk.py": None, "index_to_name.json": names}
    folder = model_dir(files, serializedFile="resnet18.pt")
    (folder / "resnet18.pt").symlink_to(scripted)
    # Warnings are errors here: this also shows that torch.jit.load's is hidden.
    service = load(folder, "resnet_topk.py")
    image = photo()
    rows = [{"data": bytearray(image)}, {"body": base64.b64encode(image).decode()}]
    outcome = infer(service, *rows)
    assert outcome.code == 200
    first, second = (json.loads(prediction.body) for prediction in outcome.predictions)
    assert len(first) == 5
    assert list(first.values()) == sorted(first.values(), reverse=True)
    assert all(label.startswith("class ") for label in first)
    assert first == pytest.approx(second)
    assert first == pytest.approx(by_hand(image, scripted))


def by_hand(image: bytes, scripted) -> dict[str, float]:
    from ts.torch_handler.image_classifier import ImageClassifier
    from ts.torch_handler.model_formats import load_torchscript

    tensor = ImageClassifier.image_processing(Image.open(io.BytesIO(image)))
    model = load_torchscript(str(scripted), torch.device("cpu")).eval()
    with torch.inference_mode():
        probs, classes = torch.softmax(model(tensor.unsqueeze(0)), dim=1).topk(5)
    return {
        f"class {number}": prob
        for number, prob in zip(classes[0].tolist(), probs[0].tolist(), strict=True)
    }
