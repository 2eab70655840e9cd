"""A small eager model on a list of numbers, for torchserve-py and TorchServe."""

import torch

from ts.torch_handler.base_handler import BaseHandler


class SmallHandler(BaseHandler):
    """JSON in, JSON out; the base handler loads the model."""

    def preprocess(self, data):
        return torch.tensor([row.get("data") or row.get("body") for row in data])

    def postprocess(self, data):
        return data.tolist()
