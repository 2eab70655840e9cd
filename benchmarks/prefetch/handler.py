"""Handlers of the prefetch benchmark: real preprocessing, and a real or an imagined computation."""

from __future__ import annotations

import time

import torch
from torchvision.models import resnet18

from ts.torch_handler.image_classifier import ImageClassifier

GPU_SECONDS = 0.03  # that a batch would take on a device beside the processor


class Handler(ImageClassifier):
    """The built-in image classifier around a ResNet-18 with random weights.

    `handler: {gpu: true}` in the yaml leaves the ResNet out and sleeps instead; with `json: true` a
    request is a JSON list of numbers, and all its preprocessing is to parse it.
    """

    def initialize(self, context):
        self.context = context
        self.device = torch.device("cpu")
        self.mapping = None
        options = context.model_yaml_config.get("handler", {})
        self.gpu, self.json = options.get("gpu", False), options.get("json", False)
        torch.manual_seed(0)
        self.model = resnet18(weights=None).eval()

    def preprocess(self, data):
        return data if self.json else super().preprocess(data)

    def inference(self, data, *args, **kwargs):
        if not self.gpu:
            return super().inference(data)
        time.sleep(GPU_SECONDS)
        return torch.zeros(len(data), 1000)
