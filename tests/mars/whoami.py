"""Tells where and as what its worker runs."""

import os
import sys


def handle(data, context):
    if data is None:
        return None
    torch = sys.modules.get("torch")
    answer = {
        "pid": os.getpid(),
        "gpu_id": context.system_properties["gpu_id"],
        "model_name": context.model_name,
        "batch_size": context.system_properties["batch_size"],
        "threads": torch.get_num_threads() if torch else None,
        "cwd": os.getcwd(),
        "path": sys.path,
        "env": dict(os.environ),
        "request_ids": [context.get_request_id(idx) for idx in range(len(data))],
    }
    return [answer for _ in data]
