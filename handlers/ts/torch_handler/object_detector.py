"""The built-in handler `object_detector`: boxes around what an image shows."""

from __future__ import annotations

from typing import Any, Dict, List

import torch
from torchvision import transforms

from ts.blame import each
from ts.handler_utils.timer import timed
from ts.torch_handler.images import to_rgb_or_grey
from ts.torch_handler.vision_handler import VisionHandler
from ts.utils.util import map_class_to_label


class ObjectDetector(VisionHandler):
    """Answers each image with ``[{label: [x1, y1, x2, y2], "score": s}, ...]`` in pixels."""

    threshold = 0.5
    image_processing = transforms.Compose([to_rgb_or_grey, transforms.ToTensor()])

    @timed
    def preprocess(self, data: List[Any]) -> Any:
        """A stack of images, or a list of them where their sizes differ."""
        images = [image.to(self.device) for image in each(self._image, data)]
        same = len({image.shape for image in images}) == 1
        return torch.stack(images) if same else images

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        # Not by way of the base's method, which would be timed as well.
        images = data if isinstance(data, list) else data.to(self.device)
        with torch.inference_mode():
            return self.model(images, *args, **kwargs)

    @timed
    def postprocess(self, data: Any) -> List[List[Dict[str, Any]]]:
        """Keep the boxes whose score is at least ``threshold``."""
        return [self._boxes(image) for image in data]

    def _boxes(self, image: Dict[str, Any]) -> List[Dict[str, Any]]:
        kept = image["scores"] >= self.threshold
        boxes = [[box] for box in image["boxes"][kept].tolist()]
        classes = [[number] for number in image["labels"][kept].tolist()]
        found: List[Dict[str, Any]] = list(map_class_to_label(boxes, self.mapping, classes))
        for box, score in zip(found, image["scores"][kept].tolist()):
            box["score"] = score
        return found
