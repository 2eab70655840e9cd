"""Steps of image transforms that the built-in handlers share."""

from __future__ import annotations

from typing import Any

from torchvision import transforms


def to_rgb(image: Any) -> Any:
    """Three channels of any image: palettes, greys, alpha and CMYK are converted."""
    return image if image.mode == "RGB" else image.convert("RGB")


def to_rgb_or_grey(image: Any) -> Any:
    """Three channels, or one of a grey image: detectors spread that one themselves."""
    return image if image.mode == "L" else to_rgb(image)


def imagenet_transform() -> Any:
    """The transform of torchvision's ImageNet models: 224 x 224 pixels from the middle."""
    return transforms.Compose(
        [
            to_rgb,
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
