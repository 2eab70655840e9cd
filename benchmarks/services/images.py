"""What TorchServe's image_classifier does, for the peers that bring no such handler: the same steps
from the same libraries, so that every server does the same work. Imported by their scripts.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

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
