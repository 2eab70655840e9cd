"""Figures of the machine and its GPUs (reference §6.4, backend reference §9.5)."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.frontend.http_fakes import until
from ts_frontend.metrics.system import HOST, MIB, Gpus, SystemCollector
from ts_frontend.metrics.system_command import SystemCommand

GPU_NAMES = ["GPUMemoryUtilization", "GPUMemoryUsed", "GPUUtilization"]
NAMES = [
    *("CPUUtilization", "DiskAvailable", "DiskUsage", "DiskUtilization"),
    *("MemoryAvailable", "MemoryUsed", "MemoryUtilization"),
]


class Sink:
    """Remembers figures."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, float, tuple[tuple[str, str], ...]]] = []

    def system(
        self, name: str, unit: str, value: float, dimensions: tuple[tuple[str, str], ...], /
    ) -> None:
        self.seen.append((name, unit, value, dimensions))


class Nvml:
    """Two GPUs, of which the second is a MIG slice without utilization."""

    class NVMLError(Exception):
        pass

    def __init__(self, broken: bool = False) -> None:
        self.broken = broken
        self.shut = 0
        self.asked: list[Any] = []

    def nvmlInit(self) -> None:
        if self.broken:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        self.shut += 1

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.asked.append(index)
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:
        self.asked.append(uuid)
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=512 * MIB, total=2048 * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return SimpleNamespace(gpu=40, memory=10)


def test_gpus_tell_what_they_can() -> None:
    nvml = Nvml()
    gpus = Gpus(load=lambda: nvml)
    first, second = (*HOST, ("device_id", "0")), (*HOST, ("device_id", "1"))
    assert [tuple(figure) for figure in gpus.figures()] == [
        ("GPUMemoryUtilization", "Percent", 25.0, first),
        ("GPUMemoryUsed", "Megabytes", 512.0, first),
        ("GPUUtilization", "Percent", 40.0, first),
        ("GPUMemoryUtilization", "Percent", 25.0, second),
        ("GPUMemoryUsed", "Megabytes", 512.0, second),
    ]
    gpus.close()
    assert nvml.shut == 1


def test_chosen_gpus_keep_their_cuda_order() -> None:
    nvml = Nvml()
    figures = Gpus(["GPU-b"], load=lambda: nvml).figures()
    assert nvml.asked == ["GPU-b"]
    assert [figure.name for figure in figures] == GPU_NAMES


def missing() -> Any:
    """What importing pynvml does where it is not installed."""
    raise ImportError("pynvml")


@pytest.mark.parametrize("load", [missing, lambda: Nvml(broken=True)])
def test_no_driver_means_no_gpu_figures(load: Any) -> None:
    gpus = Gpus(load=load)
    assert gpus.figures() == []
    gpus.close()


def test_the_real_binding_is_harmless_here() -> None:
    gpus = Gpus()
    assert isinstance(gpus.figures(), list)
    gpus.close()


async def test_the_collector_reports_at_once_and_then_again() -> None:
    sink = Sink()
    nvml = Nvml()
    collector = SystemCollector(sink, 0.001, Gpus(load=lambda: nvml))
    task = asyncio.create_task(collector.run())
    await until(lambda: len(sink.seen) >= 24)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    names = [name for name, *_ in sink.seen]
    assert names[5:12] == NAMES
    assert names[12:24] == names[:12]
    assert nvml.shut >= 1
    for name, unit, value, dimensions in sink.seen[5:12]:
        assert dimensions == HOST
        assert value >= 0
        assert unit == (
            "Percent"
            if name.endswith("Utilization")
            else "Gigabytes"
            if name.startswith("Disk")
            else "Megabytes"
        )


def test_a_disk_that_cannot_be_read_is_left_out() -> None:
    collector = SystemCollector(Sink(), 60, Gpus(load=missing), disk="/nonexistent/for/sure")
    names = [figure.name for figure in collector.collect()]
    assert names == [name for name in NAMES if not name.startswith("Disk")]


COMMAND = """
import sys
pids = sys.stdin.readline().strip()
print("CPUUtilization.Percent:12.5|#Level:Host|#hostname:h,1717105307")
print("GPUMemoryUsed.Megabytes:3|#Level:Host,device_id:1|#hostname:h,1717105307")
print(f"Pids.Count:{len(pids.split(','))}|#Level:Host|#hostname:h,1717105307")
print(" ".join(sys.argv[1:]))
print()
print(f"{pids}:4096")
"""


def command(tmp_path: Path, source: str, limit: float = 30.0) -> SystemCommand:
    script = tmp_path / "collect.py"
    script.write_text(source)
    return SystemCommand(f"{script} --gpu 2", lambda: (11, 12), limit)


def test_a_command_in_place_of_our_own_collecting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collector = SystemCollector(Sink(), 60, command=command(tmp_path, COMMAND))
    for _ in range(2):
        figures = collector.collect()
    assert [tuple(figure) for figure in figures] == [
        ("CPUUtilization", "Percent", 12.5, HOST),
        ("GPUMemoryUsed", "Megabytes", 3.0, (*HOST, ("device_id", "1"))),
        ("Pids", "Count", 2.0, HOST),
    ]
    assert caplog.messages == [
        f"system_metrics_cmd={tmp_path}/collect.py --gpu 2: it printed '--gpu 2', "
        "which is no metric"
    ]


@pytest.mark.parametrize(
    ("source", "limit", "cause"),
    [
        ("raise SystemExit('no sensors')", 30.0, "it ended with 1: no sensors"),
        ("import time; time.sleep(600)", 0.3, "timed out after 0.3 seconds"),
    ],
)
def test_a_command_that_fails_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, source: str, limit: float, cause: str
) -> None:
    assert command(tmp_path, source, limit).figures() == []
    assert cause in caplog.text


async def test_a_command_ends_with_its_collector(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    source = f"import os, time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    collector = SystemCollector(Sink(), 60, command=command(tmp_path, source, 600.0))
    running = asyncio.create_task(collector.run())
    await until(lambda: pid.exists() and pid.read_text())
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    process = int(pid.read_text())
    await until(lambda: not Path(f"/proc/{process}").exists())


def test_torchserves_own_command_works(caplog: pytest.LogCaptureFixture) -> None:
    command = SystemCommand("ts/metrics/metric_collector.py --gpu 0", tuple, 60.0)
    assert [figure[0] for figure in command.figures()] == NAMES
    assert caplog.messages == []
