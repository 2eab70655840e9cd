"""Loads the model that it is archived with and answers with the seconds that this took."""

import time

from ts.torch_handler.base_handler import BaseHandler


class LoadHandler(BaseHandler):
    """For torchserve-py and TorchServe; the base handler loads the model."""

    def initialize(self, context):
        began = time.monotonic()
        super().initialize(context)
        self.seconds = time.monotonic() - began

    def handle(self, data, context):
        """The seconds that the model took to load."""
        return [f"{self.seconds:.6f}" for _ in data]
