"""An image classifier whose batches go through its three steps in parts, side by side."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torchvision import transforms

from ts.context import Context
from ts.handler_utils.micro_batching import MicroBatching
from ts.torch_handler.image_classifier import ImageClassifier

logger = logging.getLogger(__name__)


class ColourClassifier(ImageClassifier):
    """Answers with ``{colour: probability}``, the nearest colour first.

    Decoding a photo takes longer than this network: with two threads for it, the network computes
    one part of the batch while the photos of the next ones are being decoded.
    """

    topk = 2
    image_processing = transforms.Compose([transforms.Resize(224), transforms.ToTensor()])

    def __init__(self) -> None:
        super().__init__()
        # An attribute goes before the method of the class. It is set here and not in `initialize`,
        # before which the worker looks up what to call for a batch.
        self.parts = MicroBatching(self)
        self.handle = self.parts  # type: ignore[method-assign]

    def initialize(self, context: Context) -> None:
        """Load the model, and take from its yaml how batches are cut and how many threads work."""
        super().initialize(context)
        settings = context.model_yaml_config["handler"]
        self.parts.micro_batch_size = settings["micro_batch_size"]
        self.parts.parallelism = settings["parallelism"]

    def inference(self, data: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        logger.info("Computing a part of %s images", len(data))
        return super().inference(data, *args, **kwargs)
