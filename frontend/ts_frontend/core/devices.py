"""Which GPUs this server may use, and which of them the next worker gets.

`registration` asks for a version's turn-taking, `describe` for a GPU's use. NVML is asked lazily,
through pynvml, so a machine without GPUs pays nothing.
"""

from __future__ import annotations

import itertools
import logging
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ts_frontend.core.model_yaml import DeviceType
from ts_frontend.core.nvml import Gpu, list_gpus, usage

logger = logging.getLogger(__name__)

_APPLE_SILICON = "darwin arm64"
NO_USAGE = "failed to obtained gpu usage"  # TorchServe's words


@dataclass(frozen=True, slots=True)
class GpuSet:
    """The GPUs of a worker that needs several: CUDA ordinals, and what CUDA_VISIBLE_DEVICES has to
    be for a process to see these alone."""

    devices: tuple[int, ...]
    visible: str


class Devices:
    """The CUDA ordinals that a worker with this server's environment will see.

    Args:
        number_of_gpu: at most so many are used; None for all that are visible.
        environ: where CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read.
        system: of this machine, as `platform_name` has it.
    """

    def __init__(
        self,
        number_of_gpu: int | None,
        environ: Mapping[str, str],
        *,
        system: str | None = None,
    ) -> None:
        self._limit = number_of_gpu
        self._environ = environ
        self._system = system or platform_name()
        self._seen: list[Gpu | None] | None = None
        self._turn = itertools.count()

    @property
    def count(self) -> int:
        """GPUs that workers may use."""
        return len(self._visible())

    def kind(self, device_type: DeviceType | None) -> DeviceType:
        """What a model that asks for ``device_type`` gets: "gpu" where there are some, "mps" on a
        Mac with Apple silicon, else "cpu"."""
        if device_type == "mps":
            return "mps" if self._system == _APPLE_SILICON else "cpu"
        return "gpu" if self.count and device_type != "cpu" else "cpu"

    def valid_ids(self, device_ids: tuple[int, ...] | None, model: str) -> tuple[int, ...] | None:
        """The yaml's ``deviceIds``, or None with a warning if one of them does not exist."""
        if device_ids is None:
            return None
        if all(0 <= device < self.count for device in device_ids):
            return device_ids
        logger.warning(
            "model %s: deviceIds %s are ignored: this server sees %s GPU(s), numbered from 0",
            model,
            list(device_ids),
            self.count,
        )
        return None

    def assigner(
        self, device_type: DeviceType | None, device_ids: tuple[int, ...] | None
    ) -> Callable[[], int | None]:
        """Gives one version's workers their CUDA ordinals, or None for the CPU.

        Models without ``deviceIds`` take turns over all GPUs, server-wide, from the first on
        (TorchServe began with the second).
        """
        kind = self.kind(device_type)
        if kind == "cpu":
            return lambda: None
        if kind == "mps":
            return lambda: 0  # the only one: any number tells the handler to use it
        if device_ids:
            turn = itertools.cycle(device_ids)
            return lambda: next(turn)
        count = self.count
        return lambda: next(self._turn) % count

    def sets(self, device_ids: tuple[int, ...] | None, level: int) -> tuple[GpuSet, ...]:
        """As many sets of ``level`` GPUs as there are, in order; no GPU is in two of them."""
        ids = device_ids or tuple(range(self.count))
        starts = range(0, len(ids) - level + 1, level)
        chosen = [ids[start : start + level] for start in starts]
        return tuple(GpuSet(each, ",".join(map(self._name, each))) for each in chosen)

    def _name(self, device: int) -> str:
        """What CUDA_VISIBLE_DEVICES calls a GPU that the server sees as this ordinal."""
        gpu = self._visible()[device]
        if gpu is not None and gpu.is_slice:
            return gpu.uuid
        asked = self._environ.get("CUDA_VISIBLE_DEVICES")
        return str(device) if asked is None else asked.split(",")[device].strip()

    def usage(self, device: int) -> str:
        """TorchServe's ``gpuUsage`` text for a CUDA ordinal. Asks the driver: not for the loop."""
        visible = self._visible()
        gpu = visible[device] if device < len(visible) else None
        figures = usage(gpu) if gpu is not None else None
        if figures is None:
            return NO_USAGE
        return (
            f"gpuId::{device} utilization.gpu::{figures.gpu} % "
            f"utilization.memory::{figures.memory} % memory.used::{figures.used_mib} MiB"
        )

    def _visible(self) -> list[Gpu | None]:
        if self._seen is None:
            seen = visible_gpus(list_gpus(), self._environ)
            if self._limit is not None:
                if self._limit > len(seen):
                    logger.warning(
                        "number_of_gpu=%s, but only %s GPU(s) are visible", self._limit, len(seen)
                    )
                seen = seen[: max(0, self._limit)]
            self._seen = seen
        return self._seen


def platform_name() -> str:
    """System and processor of this machine, such as ``darwin arm64``."""
    return f"{sys.platform} {platform.machine()}"


def visible_gpus(gpus: list[Gpu], environ: Mapping[str, str]) -> list[Gpu | None]:
    """What CUDA will enumerate, in CUDA's order; None where a device's identity is unknown.

    CUDA numbers the fastest GPU first and NVML goes by PCI bus. The two agree where all GPUs are
    alike or CUDA_DEVICE_ORDER=PCI_BUS_ID; else only UUIDs in CUDA_VISIBLE_DEVICES tell which
    is which. Once MIG slices are visible CUDA enumerates just one of them, and no whole GPU.
    """
    ordered: list[Gpu | None] = list(gpus)
    if environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID" and len({gpu.name for gpu in gpus}) > 1:
        ordered = [None] * len(gpus)
    asked = environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        slices = [part for gpu in gpus for part in gpu.slices]
        return [slices[0]] if slices else ordered
    chosen: list[Gpu | None] = []
    seen: set[object] = set()
    for entry in (part.strip() for part in asked.split(",")):
        found = _select(entry, gpus, ordered)
        known = entry if found is None else found[0] or entry
        if found is None or known in seen:
            break  # CUDA ignores an entry it does not know, or knows already, and all after it
        seen.add(known)
        chosen.append(found[0])
    slices = [gpu for gpu in chosen if gpu is not None and gpu.is_slice]
    return [slices[0]] if slices else chosen


def _select(entry: str, gpus: list[Gpu], ordered: list[Gpu | None]) -> tuple[Gpu | None] | None:
    """The device that one entry of CUDA_VISIBLE_DEVICES means, in a tuple; None if none."""
    if entry.isdecimal():
        ordinal = int(entry)
        if ordinal >= len(ordered):
            return None
        gpu = gpus[ordinal]
        return (gpu.slices[0],) if gpu.slices else (ordered[ordinal],)
    pool = gpus if entry.startswith("GPU-") else [part for gpu in gpus for part in gpu.slices]
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    matches = [gpu for gpu in pool if gpu.uuid.startswith(entry)]
    return (matches[0],) if len(matches) == 1 else None
