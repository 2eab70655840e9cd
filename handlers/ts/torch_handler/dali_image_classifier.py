"""The built-in handler `dali_image_classifier`: `image_classifier` with DALI's transforms."""

from __future__ import annotations

from ts.torch_handler.dali_handler import DALIHandler
from ts.torch_handler.image_classifier import ImageClassifier


class DALIImageClassifier(DALIHandler, ImageClassifier):
    """Answers each image with ``{label: probability}``, the most probable first."""
