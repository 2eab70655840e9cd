"""Images in, tensors to the model: the base of the image handlers."""

from __future__ import annotations

import logging
import random
from abc import ABC
from typing import Any, Dict, List, Optional

import torch
from PIL import Image

from ts.context import Context
from ts.handler_utils.timer import timed
from ts.torch_handler import convnets, image_batches
from ts.torch_handler.attribution import Attribution
from ts.torch_handler.base_handler import BaseHandler

logger = logging.getLogger(__name__)


class VisionHandler(BaseHandler, ABC):
    """Decodes each request's image; subclasses define the transform ``image_processing``.

    The section ``handler`` of a model's yaml may have ``optimize_cpu`` and ``jpeg_draft``, see
    docs/handlers.md.
    """

    # captum's IntegratedGradients of the model, made on first use: only explanations need it.
    ig = Attribution("IntegratedGradients")

    image_processing: Any

    # Set by `initialize`, which subclasses may leave out.
    _image_crew: Optional[image_batches.Crew] = None
    _jpeg_draft = False

    def initialize(self, context: Context) -> None:
        """As `BaseHandler.initialize`; lifts Pillow's size bound where the server says so."""
        super().initialize(context)
        self._image_crew = image_batches.Crew()
        self._jpeg_draft = _drafts(self.model_yaml_config, self.image_processing)
        if not context.system_properties.get("limit_max_image_pixels", True):
            Image.MAX_IMAGE_PIXELS = None

    @timed
    def preprocess(self, data: List[Any]) -> Any:
        """One tensor of the batch's images, on the handler's device.

        Each row's ``data`` or ``body`` is the bytes of an image file, the same in base64 text,
        or nested lists of numbers. What can't be read is an error of these rows.
        """
        images = image_batches.batch(
            data, self.image_processing, self._image_crew, self._jpeg_draft
        )
        return images.to(self.device)

    def get_insights(self, tensor_data: Any, _: Any, target: Any = 0) -> Any:
        """How much each input value speaks for class ``target``: nested lists like the input."""
        attributed = self.ig.attribute(tensor_data, target=target, n_steps=15)
        return attributed.tolist()

    def _image(self, row: Any) -> Any:
        return image_batches.whole(image_batches.decoded(row), self.image_processing)

    def _optimize(self) -> None:
        loaded = self.model
        super()._optimize()
        if self.model is not loaded or self.device.type != "cpu":
            return
        wanted = _flag(self.model_yaml_config, "optimize_cpu")
        # A subclass may look into its model, hook or call a part of it: it has to ask.
        if type(self).__module__.startswith("ts.torch_handler.") if wanted is None else wanted:
            made = convnets.quicker(self.model, self._two_images, self._to_compare)
            self.model = self.model if made is None else made

    def _two_images(self) -> Any:
        """As the model gets them: one of noise, one smooth."""
        noise = random.Random(0).getrandbits(8 * 3 * 256 * 256).to_bytes(3 * 256 * 256, "little")
        smooth = Image.linear_gradient("L").convert("RGB")
        images = (Image.frombytes("RGB", (256, 256), noise), smooth)
        return torch.stack([self.image_processing(image) for image in images])

    def _to_compare(self, output: Any) -> Any:
        """The numbers that clients get to see of the model's output."""
        return output


def _flag(config: Dict[str, Any], name: str) -> Optional[bool]:
    section = config.get("handler")
    value = section.get(name) if isinstance(section, dict) else None
    if value is None or isinstance(value, bool):
        return value
    logger.warning("handler.%s must be true or false, not %r: it is left out", name, value)
    return None


def _drafts(config: Dict[str, Any], transform: Any) -> bool:
    wanted = _flag(config, "jpeg_draft") or False
    steps = image_batches.steps_of(transform) if wanted else None
    if wanted and (steps is None or image_batches.draft_size(steps, (512, 512)) is None):
        logger.warning(
            "jpeg_draft has no effect: image_processing has to be a Compose that begins with "
            "Resize and ends with ToTensor and Normalize"
        )
    return wanted
