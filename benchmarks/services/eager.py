"""Loads an eager model as TorchServe does from `--model-file` and `--serialized-file`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch


def load(folder: str) -> torch.nn.Module:
    """The model of ``folder``/model.py with its weights, ready to infer."""
    spec = importlib.util.spec_from_file_location("bench_model", Path(folder) / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (model_class,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and one.__module__ == "bench_model"
    )
    model = model_class()
    model.load_state_dict(torch.load(Path(folder) / "weights.pth", weights_only=True))
    return model.eval()
