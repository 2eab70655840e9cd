"""The built-in `image_classifier` with the input that EfficientNet-Lite was trained on.

Packed with ``archiver --handler``.
"""

from __future__ import annotations

from typing import Any

from torchvision import transforms

from ts.torch_handler.image_classifier import ImageClassifier


def _rgb(image: Any) -> Any:
    """A PNG may carry transparency, grey levels or a palette; the model takes three colours."""
    return image.convert("RGB")


class EfficientNetLiteClassifier(ImageClassifier):
    """Top-5 labels with probabilities.

    The Lite models were trained on (pixel - 127) / 128, not on the means and deviations of
    ImageNet that the built-in handler uses.
    """

    image_processing = transforms.Compose(
        [
            transforms.Lambda(_rgb),
            transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[127 / 255] * 3, std=[128 / 255] * 3),
        ]
    )
