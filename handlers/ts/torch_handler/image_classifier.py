"""The built-in handler `image_classifier`: the best classes of an image."""

from __future__ import annotations

from typing import Any, Dict, List

import torch

from ts.handler_utils.timer import timed
from ts.torch_handler.images import imagenet_transform
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ImageClassifier(VisionHandler):
    """Answers each image with ``{label: probability}``, the most probable first."""

    topk = 5
    image_processing = imagenet_transform()

    def set_max_result_classes(self, topk: int) -> None:
        """Answer with ``topk`` classes."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        return self.topk

    @timed
    def postprocess(self, data: Any) -> List[Dict[str, float]]:
        """The best classes by softmax over scores ``[batch][classes]``.

        A model with fewer than ``topk`` classes answers with all it has.
        """
        scores = torch.softmax(data, dim=1)
        probs, classes = torch.topk(scores, min(self.topk, scores.shape[1]), dim=1)
        return map_class_to_label(probs.tolist(), self.mapping, classes.tolist())

    def _to_compare(self, output: Any) -> Any:
        return torch.softmax(output, dim=1)
