"""The built-in handler `image_segmenter`: a class and a probability for each pixel."""

from __future__ import annotations

from typing import Any, List

import torch

from ts.torch_handler.images import imagenet_transform
from ts.torch_handler.vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """Answers each image with ``[height][width][2]``: class number and its probability."""

    image_processing = imagenet_transform()

    def postprocess(self, data: Any) -> List[Any]:
        """From the scores ``[batch][classes][height][width]`` under the output's key ``out``."""
        probs, classes = torch.softmax(data["out"], dim=1).max(dim=1)
        return torch.stack([classes.type(probs.dtype), probs], dim=3).tolist()

    def _to_compare(self, output: Any) -> Any:
        return torch.softmax(output["out"], dim=1)
