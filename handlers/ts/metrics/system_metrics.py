"""Use of the machine's processor, memory, disk and GPUs, as lines on stdout.

For collectors that users write against TorchServe's names (`system_metrics_cmd`); the server
itself has its own collector. psutil and NVML are imported when something is measured.
"""

from __future__ import annotations

import logging
import types
from typing import Any, List

from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric

logger = logging.getLogger(__name__)

system_metrics: List[Metric] = []
dimension = [Dimension("Level", "Host")]

_MEGABYTE = 1 << 20
_GIGABYTE = 1 << 30


def cpu_utilization() -> None:
    import psutil

    _add("CPUUtilization", psutil.cpu_percent(), "percent")


def memory_used() -> None:
    import psutil

    _add("MemoryUsed", psutil.virtual_memory().used / _MEGABYTE, "MB")


def memory_available() -> None:
    import psutil

    _add("MemoryAvailable", psutil.virtual_memory().available / _MEGABYTE, "MB")


def memory_utilization() -> None:
    import psutil

    _add("MemoryUtilization", psutil.virtual_memory().percent, "percent")


def disk_used() -> None:
    import psutil

    _add("DiskUsage", psutil.disk_usage("/").used / _GIGABYTE, "GB")


def disk_utilization() -> None:
    import psutil

    _add("DiskUtilization", psutil.disk_usage("/").percent, "percent")


def disk_available() -> None:
    import psutil

    _add("DiskAvailable", psutil.disk_usage("/").free / _GIGABYTE, "GB")


def collect_gpu_metrics(num_of_gpus: int) -> None:
    """Memory and use of the first ``num_of_gpus`` GPUs, by NVML."""
    if num_of_gpus < 1:
        return
    import pynvml

    pynvml.nvmlInit()
    try:
        for index in range(num_of_gpus):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
            labels = [*dimension, Dimension("device_id", index)]
            used = float(memory.used)
            _add("GPUMemoryUtilization", 100 * used / memory.total, "percent", labels)
            _add("GPUMemoryUsed", used / _MEGABYTE, "MB", labels)
            busy = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu
            _add("GPUUtilization", busy, "percent", labels)
    finally:
        pynvml.nvmlShutdown()


def collect_all(mod: types.ModuleType, num_of_gpus: int = 0) -> None:
    """Print one line for each metric of ``mod``'s functions, GPUs first, then a blank line."""
    collect_gpu_metrics(num_of_gpus)
    for name in sorted(vars(mod)):
        function = getattr(mod, name)
        if isinstance(function, types.FunctionType) and not name.startswith(("_", "collect_")):
            function()
    for metric in system_metrics:
        print(metric)
    print("", flush=True)
    system_metrics.clear()


def _add(name: str, value: float, unit: str, labels: Any = None) -> None:
    system_metrics.append(Metric(name, value, unit, labels or dimension))
