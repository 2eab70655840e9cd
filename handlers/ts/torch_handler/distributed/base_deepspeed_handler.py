"""The base of handlers whose model runs in DeepSpeed's engine, one process for each GPU."""

from __future__ import annotations

import os
from abc import ABC

from ts.context import Context
from ts.torch_handler.base_handler import BaseHandler


class BaseDeepSpeedHandler(BaseHandler, ABC):
    """Knows its GPU; subclasses load the model and wrap it with `get_ds_engine`."""

    def initialize(self, ctx: Context) -> None:
        """Set ``device`` to this process's number among the model's. Loads nothing."""
        self.device = int(os.environ.get("LOCAL_RANK", "0"))
