"""The network of this example; packed with `model_file` for the eager archive alone."""

from __future__ import annotations

import torch
from torch import nn


class Digits(nn.Module):
    """Scores for the digits 0 to 9, ``[batch][1][8][8]`` -> ``[batch][10]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layers(images)
        return scores
