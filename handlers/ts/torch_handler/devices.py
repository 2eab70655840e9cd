"""Which device a handler computes on, by TorchServe's order of preference."""

from __future__ import annotations

import importlib.util
import logging
import os
from typing import Any, Optional, Tuple

import torch

logger = logging.getLogger(__name__)


def choose(gpu_id: Optional[int]) -> Tuple[Optional[str], Any]:
    """The map location for loading and the device for computing.

    Args:
        gpu_id: the CUDA ordinal the server gave this worker; None for the CPU.

    Returns:
        ("cuda", cuda:N), ("xpu", xpu:N), ("mps", mps), (None, an XLA device) or ("cpu", cpu).
    """
    if gpu_id is not None:
        if torch.cuda.is_available():
            prefer_tensor_cores(int(gpu_id))
            return "cuda", torch.device(f"cuda:{gpu_id}")
        if os.environ.get("TS_IPEX_GPU_ENABLE") == "true" and _available("xpu"):
            return "xpu", torch.device(f"xpu:{gpu_id}")
        if _available("mps"):
            return "mps", torch.device("mps")
    if importlib.util.find_spec("torch_xla") is not None:
        import torch_xla.core.xla_model as xm  # type: ignore[import-not-found]

        return None, xm.xla_device()
    return "cpu", torch.device("cpu")


def _available(name: str) -> bool:
    backend = getattr(torch.backends, name, None) or getattr(torch, name, None)
    return backend is not None and bool(backend.is_available())


def prefer_tensor_cores(gpu_id: int) -> None:
    """Let torch compute products of float32 matrices in TF32 where the GPU can.

    TorchServe does so when the base handler is imported. Here it waits for a worker that has a
    GPU: a zygote that touches CUDA leaves its forks without it.
    """
    if not torch.cuda.is_available():
        return
    # A worker that sees only its own GPUs may know the first of them as number 0.
    index = gpu_id if gpu_id < torch.cuda.device_count() else 0
    if torch.cuda.get_device_capability(index) >= (8, 0):
        torch.set_float32_matmul_precision("high")
        logger.info("Using TF32 for float32 matrix products on GPU %s", index)
