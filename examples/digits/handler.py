"""The built-in `image_classifier` with the input that the digits' network was trained on.

One handler for all archives of this example: what kind of file the model is, `BaseHandler` sees.
"""

from __future__ import annotations

from torchvision import transforms

from ts.torch_handler.image_classifier import ImageClassifier


class DigitClassifier(ImageClassifier):
    """Answers an image of a light digit on dark ground with ``{digit: probability}``."""

    topk = 1
    image_processing = transforms.Compose(
        [transforms.Grayscale(), transforms.Resize((8, 8)), transforms.ToTensor()]
    )
