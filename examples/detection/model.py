"""torchvision's Faster R-CNN as the worker wants an eager model: one class without arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn


class Detector(nn.Module):
    """Boxes, labels and scores of each image; its labels are 0 for the background and 1."""

    def __init__(self) -> None:
        super().__init__()
        # No download: the weights come from the archive.
        self.network = fasterrcnn_mobilenet_v3_large_320_fpn(
            weights=None, weights_backbone=None, num_classes=2, box_detections_per_img=3
        )

    def forward(
        self, images: torch.Tensor | Sequence[torch.Tensor]
    ) -> list[dict[str, torch.Tensor]]:
        """Of a stack of images, or of a list where their sizes differ."""
        found: list[dict[str, torch.Tensor]] = self.network(list(images))
        return found
