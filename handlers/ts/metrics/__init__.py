"""TorchServe's metrics; the modules named below are also attributes of the package."""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = ("dimension", "metric", "metric_encoder", "metrics_store", "system_metrics", "unit")


def __getattr__(name: str) -> Any:
    # Not all at once: a worker needs few of them.
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
