"""EfficientNet-Lite0 as the worker wants an eager model: one class, built without arguments.

Packed with ``archiver --model-file``; the layers come from the package efficientnet_lite_pytorch.
"""

from __future__ import annotations

from efficientnet_lite_pytorch import EfficientNet, get_model_params


class EfficientNetLite0(EfficientNet):
    """Scores for the 1000 ImageNet classes, ``[batch][3][224][224]`` -> ``[batch][1000]``.

    Its state_dict has the names of the published checkpoint, so that file loads as it is.
    """

    def __init__(self) -> None:
        blocks, sizes = get_model_params("efficientnet-lite0", None)
        super().__init__(blocks, sizes)
