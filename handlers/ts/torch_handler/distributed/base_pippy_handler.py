"""The base of handlers whose model is cut into pipeline stages, one process each."""

from __future__ import annotations

import os
from abc import ABC

import torch

from ts.context import Context
from ts.handler_utils.distributed.pt_pippy import initialize_rpc_workers
from ts.torch_handler.base_handler import BaseHandler


class BasePippyHandler(BaseHandler, ABC):
    """Joins the model's processes; subclasses make the pipeline with `get_pipeline_driver`."""

    local_rank = 0
    world_size = 1

    def initialize(self, ctx: Context) -> None:
        """Take this process's place among the model's, as torchrun's environment tells.

        Loads nothing; ``device`` is the number of this rank's GPU, or "cpu" without one.
        """
        self.local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        self.world_size = int(os.environ.get("WORLD_SIZE", "1"))
        devices = torch.cuda.device_count()
        self.device = self.local_rank % devices if devices else "cpu"
        initialize_rpc_workers(self.local_rank, self.world_size, ctx)
