"""The network of this example; it has no weights to train."""

from __future__ import annotations

import torch
from torch import nn

# Red, green and blue from 0 to 1, in the order of index_to_name.json.
COLOURS = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class NearestColour(nn.Module):
    """Scores of five colours: how near the mean of an image is to each of them.

    ``[batch][3][height][width]`` -> ``[batch][5]``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("colours", torch.tensor(COLOURS))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return -10 * torch.cdist(images.mean(dim=(2, 3)), self.get_buffer("colours"))
