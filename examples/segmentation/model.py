"""torchvision's LR-ASPP as the worker wants an eager model: one class, built without arguments."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large


class Segmenter(nn.Module):
    """Scores of 21 classes for each pixel: ``{"out": [batch][21][height][width]}``."""

    def __init__(self) -> None:
        super().__init__()
        # No download: the weights come from the archive.
        self.network = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        scores: dict[str, torch.Tensor] = self.network(images)
        return scores
