"""A pipeline whose second stage serves calls over torch's RPC, on TorchServe's base for those."""

import os

import torch
from torch.distributed import rpc

from ts.torch_handler.distributed.base_pippy_handler import BasePippyHandler


def second_stage(value):
    return value + 1, int(os.environ["RANK"])


class RpcStages(BasePippyHandler):
    def initialize(self, context):
        super().initialize(context)
        self.initialized = True

    def preprocess(self, data):
        return torch.tensor([float(bytes(row["body"])) for row in data])

    def inference(self, data):
        result, rank = rpc.rpc_sync("worker1", second_stage, args=(2 * data,))
        return [[value, rank] for value in result.tolist()]

    def postprocess(self, data):
        return data
