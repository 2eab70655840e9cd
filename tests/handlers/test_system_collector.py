"""`ts.metrics.metric_collector` and the modules it is made of."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import types

import pytest

from ts.metrics import process_memory_metric, system_metrics

pytest.importorskip("psutil")

LINE = re.compile(
    r"(\w+)\.(Percent|Megabytes|Gigabytes):[\d.]+\|#Level:Host(,device_id:\d)?\|#hostname:.+,\d+"
)
HOST = [
    *("CPUUtilization", "DiskAvailable", "DiskUsage", "DiskUtilization"),
    *("MemoryAvailable", "MemoryUsed", "MemoryUtilization"),
]


def test_the_script_prints_torchserves_lines():
    script = "from ts.metrics.metric_collector import main; main()"
    pids = f"{os.getpid()},999999999\n"
    result = subprocess.run(
        [sys.executable, "-c", script], input=pids, capture_output=True, text=True, check=True
    )
    host, _, workers = result.stdout.partition("\n\n")
    matches = [LINE.fullmatch(line) for line in host.splitlines()]
    assert [match and match[1] for match in matches] == HOST
    used = dict(line.split(":") for line in workers.splitlines() if line[0].isdigit())
    assert int(used[str(os.getpid())]) > 1_000_000
    assert used["999999999"] == "0"


class Nvml(types.ModuleType):
    """NVML with two GPUs, each half full and a quarter busy."""

    def __init__(self) -> None:
        super().__init__("pynvml")
        self.open = 0
        self.nvmlDeviceGetHandleByIndex = lambda index: index
        self.nvmlDeviceGetMemoryInfo = lambda gpu: types.SimpleNamespace(
            used=1 << 30, total=2 << 30
        )
        self.nvmlDeviceGetUtilizationRates = lambda gpu: types.SimpleNamespace(gpu=25)

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1


def test_gpus_come_first(monkeypatch, capsys):
    nvml = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    system_metrics.collect_all(types.ModuleType("none"), 2)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|#hostname")[0] for line in lines if line] == [
        f"{text}|#Level:Host,device_id:{gpu}"
        for gpu in (0, 1)
        for text in (
            "GPUMemoryUtilization.Percent:50.0",
            "GPUMemoryUsed.Megabytes:1024.0",
            "GPUUtilization.Percent:25",
        )
    ]
    assert nvml.open == 0
    assert system_metrics.system_metrics == []


def test_no_pids_is_no_output(capsys):
    process_memory_metric.check_process_mem_usage(io.StringIO("\n"))
    assert capsys.readouterr().out == ""
