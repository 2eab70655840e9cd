"""GPUs under the real pynvml, with the library of `nvml_stub`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.nvml_stub import EIGHT, build, uuid
from ts_frontend.core.devices import NO_USAGE, Devices, visible_gpus
from ts_frontend.core.nvml import Gpu

ASK = """
import json, os, sys
from ts_frontend.core.devices import Devices
from ts_frontend.core.nvml import list_gpus
limit = json.loads(sys.argv[1])
devices = Devices(limit, os.environ)
turn = devices.assigner(None, None)
print(json.dumps({
    "count": devices.count,
    "uuids": [gpu and gpu.uuid for gpu in devices._visible()],
    "usage": [devices.usage(n) for n in range(devices.count)],
    "turns": [turn() for _ in range(devices.count + 1)],
    "listed": len(list_gpus()),
}))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def ask(library: Path, limit: int | None = None, /, **env: str) -> dict[str, Any]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CUDA_", "STUB_", "NVIDIA_"))}
    paths = {"LD_LIBRARY_PATH": str(library), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(limit)],
        env={**kept, **paths, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    answer["stderr"] = done.stderr
    return answer


def test_eight_gpus_in_turn_from_the_first_on(library: Path) -> None:
    answer = ask(library, STUB_NAMES=EIGHT)
    assert answer["uuids"] == [uuid(n) for n in range(8)]
    assert answer["turns"] == [0, 1, 2, 3, 4, 5, 6, 7, 0]
    assert answer["usage"][3] == (
        "gpuId::3 utilization.gpu::13 % utilization.memory::23 % memory.used::103 MiB"
    )


def test_number_of_gpu_is_clamped(library: Path) -> None:
    assert ask(library, 3, STUB_NAMES=EIGHT)["count"] == 3
    assert ask(library, 0, STUB_NAMES=EIGHT)["turns"] == [None]
    beyond = ask(library, 99, STUB_NAMES=EIGHT)
    assert beyond["count"] == 8
    assert "number_of_gpu=99, but only 8 GPU(s) are visible" in beyond["stderr"]


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("3,1", [3, 1]),
        (" 2 , 0 ", [2, 0]),
        ("", []),
        ("-1", []),
        ("0,-1,1", [0]),
        ("0,99,1", [0]),
        ("1,1", [1]),
        ("NoDevFiles", []),
        ("GPU-50000005-aaaa,GPU-2", [5, 2]),
        ("GPU-", []),
        ("GPU-7,junk,GPU-1", [7]),
    ],
)
def test_cuda_visible_devices(library: Path, visible: str, expected: list[int]) -> None:
    answer = ask(library, STUB_NAMES=EIGHT, CUDA_VISIBLE_DEVICES=visible)
    assert answer["uuids"] == [uuid(n) for n in expected]
    # Workers see them renumbered from 0.
    assert answer["turns"] == [*range(len(expected)), 0 if expected else None]
    for text, index in zip(answer["usage"], expected, strict=True):
        assert text.endswith(f"memory.used::{100 + index} MiB")


def test_the_order_of_unlike_gpus_is_cudas_secret_unless_told(library: Path) -> None:
    unlike = "Tesla T4,NVIDIA H100,NVIDIA H100"
    unknown = ask(library, STUB_NAMES=unlike)
    assert unknown["uuids"] == [None] * 3
    assert unknown["usage"] == [NO_USAGE] * 3
    by_bus = ask(library, STUB_NAMES=unlike, CUDA_DEVICE_ORDER="PCI_BUS_ID")
    assert by_bus["uuids"] == [uuid(0), uuid(1), uuid(2)]
    named = ask(library, STUB_NAMES=unlike, CUDA_VISIBLE_DEVICES=f"{uuid(2)},{uuid(0)}")
    assert named["uuids"] == [uuid(2), uuid(0)]
    assert ask(library, STUB_NAMES=unlike, CUDA_VISIBLE_DEVICES="2,0,0")["count"] == 2


def test_of_mig_slices_cuda_shows_one(library: Path) -> None:
    options = {"STUB_NAMES": "A100,A100,OldGpu", "STUB_MIG": "-,2,-"}
    assert ask(library, **options, CUDA_DEVICE_ORDER="PCI_BUS_ID")["uuids"] == ["MIG-1-0-bbbb"]
    chosen = ask(library, **options, CUDA_VISIBLE_DEVICES="MIG-1-1-bbbb,MIG-1-0-bbbb")
    assert chosen["uuids"] == ["MIG-1-1-bbbb"]
    assert chosen["usage"] == [
        "gpuId::0 utilization.gpu::N/A % utilization.memory::N/A % memory.used::101 MiB"
    ]
    whole = ask(library, **options, CUDA_VISIBLE_DEVICES=uuid(0))
    assert whole["uuids"] == [uuid(0)]


def test_a_gpu_in_mig_mode_without_slices_is_not_usable(library: Path) -> None:
    answer = ask(library, STUB_NAMES="A100,A100", STUB_MIG="0,-")
    assert (answer["listed"], answer["uuids"]) == (1, [uuid(1)])


def test_no_driver_and_no_library_mean_no_gpu(library: Path, tmp_path: Path) -> None:
    absent = ask(library, STUB_NAMES=EIGHT, STUB_NO_DRIVER="1")
    assert (absent["count"], absent["turns"], absent["stderr"]) == (0, [None], "")
    (tmp_path / "libnvidia-ml.so.1").write_text("no library")
    assert ask(tmp_path)["count"] == 0


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    found = [Gpu(uuid(n), "H100", f"{n}") for n in range(count)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: found)


def test_models_share_one_turn_and_device_ids_have_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpus(monkeypatch, 4)
    devices = Devices(None, {})
    first, second = devices.assigner(None, None), devices.assigner("gpu", None)
    assert [first(), second(), first(), second(), first()] == [0, 1, 2, 3, 0]
    own = devices.assigner("gpu", (3, 1))
    assert [own(), own(), own()] == [3, 1, 3]
    assert devices.assigner("cpu", None)() is None
    assert (devices.kind(None), devices.kind("cpu")) == ("gpu", "cpu")


def test_device_ids_out_of_range_are_ignored_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gpus(monkeypatch, 2)
    devices = Devices(None, {})
    assert devices.valid_ids((1, 0), "m") == (1, 0)
    assert devices.valid_ids((0, 2), "m") is None
    assert "model m: deviceIds [0, 2] are ignored: this server sees 2 GPU(s)" in caplog.text


def test_gpu_without_gpus_is_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 0)
    devices = Devices(None, {})
    assert devices.kind("gpu") == "cpu"
    assert devices.assigner("gpu", None)() is None
    assert visible_gpus([], {"CUDA_VISIBLE_DEVICES": "0"}) == []
