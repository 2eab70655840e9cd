"""The base of handlers that decode and transform their images with NVIDIA DALI."""

from __future__ import annotations

import base64
from typing import Any, List

import torch

from ts.blame import each
from ts.context import Context
from ts.handler_utils.preprocess.dali import SOURCE, get_dali_pipeline
from ts.handler_utils.timer import timed
from ts.optional import require
from ts.torch_handler.base_handler import BaseHandler


class DALIHandler(BaseHandler):
    """`preprocess` is the pipeline of the model's yaml; see `get_dali_pipeline`."""

    pipe: Any = None

    def initialize(self, context: Context) -> None:
        """As `BaseHandler.initialize`, and build the pipeline.

        Raises:
            ValueError: the yaml has no usable section ``dali``.
            ImportError: DALI is not installed.
        """
        super().initialize(context)
        self.pipe = get_dali_pipeline(context)

    @timed
    def preprocess(self, data: List[Any]) -> Any:
        """One tensor of the batch's images, on the handler's device.

        Each row's ``data`` or ``body`` is the bytes of an image file, or the same in base64.
        """
        self.pipe.feed_input(SOURCE, each(_encoded, data))
        (images,) = self.pipe.run()
        return _tensor(images.as_tensor(), self.device)


def _tensor(images: Any, device: Any) -> Any:
    """A tensor of torch's with the contents of one of DALI's, wherever that one lies."""
    plugin = require("nvidia.dali.plugin.pytorch", "nvidia-dali-cuda120", "This handler")
    result = torch.empty(
        images.shape(), dtype=plugin.to_torch_type[images.dtype], device=torch.device(device)
    )
    plugin.feed_ndarray(images, result)
    return result


def _encoded(row: Any) -> Any:
    import numpy

    image = row.get("data") or row.get("body")
    if isinstance(image, str):
        image = base64.b64decode(image)
    return numpy.frombuffer(image, dtype=numpy.uint8)
