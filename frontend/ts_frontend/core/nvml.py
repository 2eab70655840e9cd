"""What the NVIDIA driver says about its GPUs. `devices` is the only caller.

pynvml is imported on first use: it looks for libnvidia-ml.so.1, which most machines lack.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU, or one slice of it where MIG partitions it, in the order of PCI buses."""

    uuid: str
    name: str
    pci_bus: str
    slices: tuple[Gpu, ...] = ()
    is_slice: bool = False


@dataclass(frozen=True, slots=True)
class Usage:
    """Percentages of the last sample and memory in MiB; "N/A" where the device has no figure."""

    gpu: int | str
    memory: int | str
    used_mib: int


def list_gpus() -> list[Gpu]:
    """All GPUs of the machine in NVML's order; none where there is no driver.

    A GPU in MIG mode that has not been partitioned is left out: nothing can run on it.
    """
    with _session() as nvml:
        if nvml is None:
            return []
        try:
            handles = [
                nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
            ]
            gpus = [gpu for handle in handles if (gpu := _describe(nvml, handle)) is not None]
        except nvml.NVMLError as error:
            logger.warning("The NVIDIA driver could not list its GPUs, none are used: %s", error)
            return []
    return sorted(gpus, key=lambda gpu: gpu.pci_bus)


def usage(gpu: Gpu) -> Usage | None:
    """How busy a GPU is now; None where the driver does not say."""
    with _session() as nvml:
        if nvml is None:
            return None
        try:
            handle = nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
            used = int(nvml.nvmlDeviceGetMemoryInfo(handle).used) // (1 << 20)
            if gpu.is_slice:  # utilization is not kept per slice
                return Usage("N/A", "N/A", used)
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
        except nvml.NVMLError:
            return None
        return Usage(int(rates.gpu), int(rates.memory), used)


@contextlib.contextmanager
def _session() -> Iterator[Any]:
    """pynvml, initialised; None where it, the driver or a GPU is missing."""
    try:
        import pynvml  # deferred: see the top of this file
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        if error.value not in (
            pynvml.NVML_ERROR_LIBRARY_NOT_FOUND,
            pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
        ):
            logger.warning("The NVIDIA driver does not answer, no GPU is used: %s", error)
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _describe(nvml: Any, handle: Any) -> Gpu | None:
    name = _text(nvml.nvmlDeviceGetName(handle))
    bus = _text(nvml.nvmlDeviceGetPciInfo(handle).busId)
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    if not _partitioned(nvml, handle):
        return Gpu(uuid, name, bus)
    slices = _slices(nvml, handle, name, bus)
    return Gpu(uuid, name, bus, slices) if slices else None


def _partitioned(nvml: Any, handle: Any) -> bool:
    try:
        current, _pending = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:  # a GPU that knows no MIG
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _slices(nvml: Any, handle: Any, name: str, bus: str) -> tuple[Gpu, ...]:
    most = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
    found: list[Gpu] = []
    for index in range(most):
        try:
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index)
        except nvml.NVMLError:  # no slice in this place
            continue
        found.append(Gpu(_text(nvml.nvmlDeviceGetUUID(part)), name, bus, is_slice=True))
    return tuple(found)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
