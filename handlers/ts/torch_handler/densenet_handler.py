"""The handler `densenet_handler`: tensors in, tensors out, both in `torch.save`'s format."""

from __future__ import annotations

import io
from typing import Any, List

import torch

from ts.blame import each
from ts.torch_handler.base_handler import BaseHandler


class DenseNetHandler(BaseHandler):
    """Answers each saved tensor with the model's output, saved the same way by the server."""

    def preprocess(self, data: List[Any]) -> Any:
        """The rows' tensors as one batch, or a batch of one each where their shapes differ.

        No code in the bytes is run.
        """
        rows = each(self._tensor, data)
        if len({row.shape for row in rows}) == 1:
            return torch.stack(rows)
        return [row.unsqueeze(0) for row in rows]

    def _tensor(self, row: Any) -> Any:
        stream = io.BytesIO(row.get("data") or row.get("body"))
        return torch.load(stream, map_location=self.device, weights_only=True)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(data, list):
            return [super(DenseNetHandler, self).inference(one, *args, **kwargs) for one in data]
        return super().inference(data, *args, **kwargs)

    def postprocess(self, data: Any) -> List[Any]:
        """One output per row, each with the batch dimension that a row alone gets too."""
        outputs = data if isinstance(data, list) else data.split(1)
        return [output.cpu() for output in outputs]
