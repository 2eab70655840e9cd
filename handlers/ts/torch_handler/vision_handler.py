"""Images in, tensors to the model: the base of the image handlers."""

from __future__ import annotations

import base64
import io
from abc import ABC
from typing import Any, List

import torch
from PIL import Image

from ts.blame import each
from ts.context import Context
from ts.handler_utils.timer import timed
from ts.torch_handler.attribution import Attribution
from ts.torch_handler.base_handler import BaseHandler


class VisionHandler(BaseHandler, ABC):
    """Decodes each request's image; subclasses define the transform ``image_processing``."""

    # captum's IntegratedGradients of the model, made on first use: only explanations need it.
    ig = Attribution("IntegratedGradients")

    image_processing: Any

    def initialize(self, context: Context) -> None:
        """As `BaseHandler.initialize`; lifts Pillow's size bound where the server says so."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: List[Any]) -> Any:
        """One tensor of the batch's images, on the handler's device.

        Each row's ``data`` or ``body`` is the bytes of an image file, the same in base64 text,
        or nested lists of numbers. What can't be read is an error of these rows.
        """
        return torch.stack(each(self._image, data)).to(self.device)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """How much each input value speaks for class ``target``: nested lists like the input."""
        attributed = self.ig.attribute(tensor_data, target=target, n_steps=15)
        return attributed.tolist()

    def _image(self, row: Any) -> Any:
        image = row.get("data") or row.get("body")
        if isinstance(image, str):
            image = base64.b64decode(image)
        if isinstance(image, (bytes, bytearray)):
            return self.image_processing(Image.open(io.BytesIO(image)))
        return torch.FloatTensor(image)
