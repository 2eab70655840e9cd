"""The handler `densenet_handler`: tensors in, tensors out, both in `torch.save`'s format."""

from __future__ import annotations

import io
from typing import Any, List

import torch

from ts.torch_handler.base_handler import BaseHandler


class DenseNetHandler(BaseHandler):
    """Answers each saved tensor with the model's output, saved the same way by the server."""

    def preprocess(self, data: List[Any]) -> List[Any]:
        """The tensor of each row; no code in the bytes is run."""
        streams = [io.BytesIO(row.get("data") or row.get("body")) for row in data]
        return [
            torch.load(stream, map_location=self.device, weights_only=True) for stream in streams
        ]

    def inference(self, data: List[Any], *args: Any, **kwargs: Any) -> List[Any]:
        """Each row is a batch of its own, so that their shapes may differ."""
        with torch.inference_mode():
            return [self.model(tensor, *args, **kwargs) for tensor in data]

    def postprocess(self, data: List[Any]) -> List[Any]:
        return [tensor.cpu() for tensor in data]
