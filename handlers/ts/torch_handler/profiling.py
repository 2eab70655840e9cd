"""`torch.profiler` around one batch, for workers started with ENABLE_TORCH_PROFILER."""

from __future__ import annotations

import logging
import os
import tempfile
from typing import Any, Dict, Optional, Tuple

import torch
from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler

logger = logging.getLogger(__name__)


def profiled(handler: Any, data: Any) -> Tuple[Any, Any]:
    """Run a `BaseHandler`'s steps under the profiler.

    The handler's ``profiler_args`` go to `torch.profiler.profile`; without any, CPU and CUDA are
    recorded with shapes and the trace is written for TensorBoard.

    Returns:
        The batch's results and the profiler.
    """
    args = dict(getattr(handler, "profiler_args", None) or _default_args())
    args.setdefault("on_trace_ready", tensorboard_trace_handler(_trace_dir(handler)))
    with profile(**args) as profiler:
        with record_function("preprocess"):
            prepared = handler.preprocess(data)
        if handler._is_explain():
            with record_function("explain"):
                output = handler.explain_handle(prepared, data)
        else:
            with record_function("inference"):
                output = handler.inference(prepared)
            with record_function("postprocess"):
                output = handler.postprocess(output)
    logger.info("%s", profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
    return output, profiler


def _default_args() -> Dict[str, Any]:
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    return {"activities": activities, "record_shapes": True}


def _trace_dir(handler: Any) -> str:
    manifest: Optional[Dict[str, Any]] = getattr(handler, "manifest", None)
    if not manifest:
        manifest = getattr(handler.context, "manifest", None)
    name = (manifest or {}).get("model", {}).get("modelName", "")
    return os.path.join(tempfile.gettempdir(), "pytorch_profiler", name)
