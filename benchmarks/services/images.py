"""What TorchServe's image_classifier does, for the peers that bring no such handler: the same steps
from the same libraries, so that every server does the same work. Imported by their scripts.
"""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms

_STEPS = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)


def load(folder: str) -> torch.nn.Module:
    """The model of ``folder``/model.py with its weights, ready to infer."""
    spec = importlib.util.spec_from_file_location("bench_model", Path(folder) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (model_class,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == "bench_model"
    )
    model = model_class()
    model.load_state_dict(torch.load(Path(folder) / "weights.pth", weights_only=True))
    return model.eval()


def preprocess(body: bytes) -> torch.Tensor:
    """A JPEG as ``[3][224][224]``."""
    image: torch.Tensor = _STEPS(Image.open(io.BytesIO(body)))
    return image


def classify(model: torch.nn.Module, images: Sequence[torch.Tensor]) -> list[dict[str, float]]:
    """The five best classes of each image, with their probabilities."""
    with torch.inference_mode():
        scores = torch.softmax(model(torch.stack(list(images))), dim=1)
        probabilities, classes = (one.tolist() for one in torch.topk(scores, 5, dim=1))
    return [
        {str(name): value for name, value in zip(*one, strict=True)}
        for one in zip(classes, probabilities, strict=True)
    ]
