"""Figures of the machine: CPU, memory, disk and GPUs, every `metric_time_interval` (§6.4).

`server` runs one `SystemCollector` unless `disable_system_metrics` is set. TorchServe started a
Python process for this each minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from ts_frontend.metrics.system_command import SystemCommand

log = logging.getLogger(__name__)

MIB = 2**20
GIB = 2**30
HOST = (("Level", "Host"),)


class Figure(NamedTuple):
    """One figure of the machine, ready for `Recorder.system`."""

    name: str
    unit: str
    value: float
    dimensions: tuple[tuple[str, str], ...] = HOST


class SystemSink(Protocol):
    """What takes the figures; `recorder.Recorder` does."""

    def system(
        self, name: str, unit: str, value: float, dimensions: tuple[tuple[str, str], ...], /
    ) -> None: ...


class Gpus:
    """The GPUs as NVML sees them. Where there is no NVML, or a figure is missing, it says less.

    Args:
        uuids: the devices to report, in the order of their CUDA ordinals; None for all.
        load: imports the NVML binding; replaced in tests.
    """

    def __init__(
        self, uuids: Sequence[str] | None = None, load: Callable[[], Any] | None = None
    ) -> None:
        self._uuids = uuids
        self._load = load or _import_nvml
        self._nvml: Any = None
        self._handles: list[Any] | None = None

    def figures(self) -> list[Figure]:
        """Return used memory, its share and utilization of each device; blocks for some ms."""
        if self._handles is None:
            self._handles = self._open()
        return [
            figure
            for ordinal, handle in enumerate(self._handles)
            for figure in self._device(ordinal, handle)
        ]

    def memory_by_process(self) -> dict[int, int]:
        """Return the bytes that each process holds on all devices together, by its id; blocks.

        The driver may tell nothing, or ids that only the host knows when this is a container.
        """
        if self._handles is None:
            self._handles = self._open()
        held: dict[int, int] = {}
        for ordinal, handle in enumerate(self._handles):
            try:
                processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            except self._nvml.NVMLError as error:
                log.debug("GPU %d tells no processes: %s", ordinal, error)
                continue
            for process in processes:
                if process.usedGpuMemory is not None:
                    held[process.pid] = held.get(process.pid, 0) + int(process.usedGpuMemory)
        return held

    def close(self) -> None:
        """Let go of NVML; `figures` opens it again."""
        if self._nvml is not None and self._handles:
            try:
                self._nvml.nvmlShutdown()
            except self._nvml.NVMLError as error:
                log.debug("NVML did not shut down: %s", error)
        self._handles = None

    def _open(self) -> list[Any]:
        try:
            nvml = self._nvml = self._load()
        except ImportError:
            return []
        try:
            nvml.nvmlInit()
            if self._uuids is not None:
                return [nvml.nvmlDeviceGetHandleByUUID(uuid) for uuid in self._uuids]
            count = nvml.nvmlDeviceGetCount()
            return [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        except nvml.NVMLError as error:
            log.debug("There are no GPU metrics: %s", error)
            return []

    def _device(self, ordinal: int, handle: Any) -> Iterator[Figure]:
        nvml = self._nvml
        dimensions = (*HOST, ("device_id", str(ordinal)))
        # A MIG slice has memory but no utilization: each figure may fail by itself.
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            share = 100.0 * memory.used / memory.total if memory.total else 0.0
            yield Figure("GPUMemoryUtilization", "Percent", share, dimensions)
            yield Figure("GPUMemoryUsed", "Megabytes", memory.used / MIB, dimensions)
        except nvml.NVMLError as error:
            log.debug("GPU %d tells no memory: %s", ordinal, error)
        try:
            rates = nvml.nvmlDeviceGetUtilizationRates(handle)
            yield Figure("GPUUtilization", "Percent", float(rates.gpu), dimensions)
        except nvml.NVMLError as error:
            log.debug("GPU %d tells no utilization: %s", ordinal, error)


class SystemCollector:
    """Reads the machine's figures on a timer and hands them to the recorder.

    Args:
        recorder: takes the figures.
        interval: seconds between two rounds; the first is at once.
        gpus: None for every GPU that NVML shows.
        command: a program that knows the figures; all of them then come from it.
    """

    def __init__(
        self,
        recorder: SystemSink,
        interval: float,
        gpus: Gpus | None = None,
        disk: str = "/",
        command: SystemCommand | None = None,
    ) -> None:
        self._recorder = recorder
        self._interval = interval
        self._gpus = gpus or Gpus()
        self._disk = disk
        self._command = command

    async def run(self) -> None:
        """Collect until cancelled. The reading itself happens in a thread."""
        await asyncio.to_thread(_open_window)
        try:
            while True:
                for figure in await asyncio.to_thread(self.collect):
                    self._recorder.system(*figure)
                await asyncio.sleep(self._interval)
        finally:
            self._gpus.close()
            if self._command is not None:
                self._command.close()

    def collect(self) -> list[Figure]:
        """Read all figures once, in TorchServe's order; blocks for some milliseconds, or as long as
        the command takes."""
        if self._command is not None:
            return [Figure(*figure) for figure in self._command.figures()]
        import psutil

        figures = self._gpus.figures()
        figures.append(Figure("CPUUtilization", "Percent", psutil.cpu_percent()))
        try:
            disk = psutil.disk_usage(self._disk)
        except OSError as error:
            log.debug("%s tells no disk usage: %s", self._disk, error)
        else:
            figures.append(Figure("DiskAvailable", "Gigabytes", disk.free / GIB))
            figures.append(Figure("DiskUsage", "Gigabytes", disk.used / GIB))
            figures.append(Figure("DiskUtilization", "Percent", disk.percent))
        memory = psutil.virtual_memory()
        figures.append(Figure("MemoryAvailable", "Megabytes", memory.available / MIB))
        figures.append(Figure("MemoryUsed", "Megabytes", memory.used / MIB))
        figures.append(Figure("MemoryUtilization", "Percent", memory.percent))
        return figures


def _import_nvml() -> Any:
    import pynvml  # loaded late: a server without GPUs never pays for it

    return pynvml


def _open_window() -> None:
    import psutil  # here: the server listens before it measures anything

    psutil.cpu_percent()  # the first call only opens the window of the next one
