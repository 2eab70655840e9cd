"""GPUs under the real pynvml, with a libnvidia-ml that this file compiles."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ts_frontend.core.devices import NO_USAGE, Devices, visible_gpus
from ts_frontend.core.nvml import Gpu

# STUB_NAMES names the GPUs, in the order of NVML. STUB_MIG lists how many slices each one has,
# "-" for none and no MIG mode. The PCI buses count up, handles point into `devices`.
STUB = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { char name[64]; char uuid[80]; int index, mig, slices, is_slice; } device;
typedef struct { char legacy[16]; unsigned domain, bus, dev, id, sub; char busid[32]; } pci;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { unsigned long long total, free, used; } memory;
enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, MISSING = 6, NO_DRIVER = 9 };
static device devices[16], slices[16][4];
static int count = 0;
int nvmlInitWithFlags(unsigned flags) {
    if (getenv("STUB_NO_DRIVER")) return NO_DRIVER;
    count = 0;
    char names[512], migs[128];
    snprintf(names, sizeof names, "%s", getenv("STUB_NAMES") ? getenv("STUB_NAMES") : "");
    snprintf(migs, sizeof migs, "%s", getenv("STUB_MIG") ? getenv("STUB_MIG") : "");
    for (char *name = strtok(names, ","); name; name = strtok(NULL, ",")) {
        device *d = &devices[count];
        memset(d, 0, sizeof *d);
        snprintf(d->name, sizeof d->name, "%s", name);
        snprintf(d->uuid, sizeof d->uuid, "GPU-%d000000%d-aaaa", count, count);
        d->index = count++;
    }
    int n = 0;
    for (char *m = strtok(migs, ","); m && n < count; m = strtok(NULL, ","), n++) {
        if (*m == '-') continue;
        devices[n].mig = 1;
        devices[n].slices = atoi(m);
        for (int i = 0; i < devices[n].slices; i++) {
            device *s = &slices[n][i];
            *s = devices[n];
            s->is_slice = 1;
            snprintf(s->uuid, sizeof s->uuid, "MIG-%d-%d-bbbb", n, i);
        }
    }
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return "stub error"; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, device **out) {
    if (i >= (unsigned)count) return INVALID;
    *out = &devices[i];
    return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, device **out) {
    for (int i = 0; i < count; i++) {
        if (!strcmp(devices[i].uuid, uuid)) { *out = &devices[i]; return OK; }
        for (int j = 0; j < devices[i].slices; j++)
            if (!strcmp(slices[i][j].uuid, uuid)) { *out = &slices[i][j]; return OK; }
    }
    return MISSING;
}
int nvmlDeviceGetName(device *d, char *out, unsigned n) {
    snprintf(out, n, "%s", d->name); return OK;
}
int nvmlDeviceGetUUID(device *d, char *out, unsigned n) {
    snprintf(out, n, "%s", d->uuid); return OK;
}
int nvmlDeviceGetPciInfo_v3(device *d, pci *out) {
    memset(out, 0, sizeof *out);
    snprintf(out->busid, sizeof out->busid, "00000000:%02X:00.0", d->index);
    return OK;
}
int nvmlDeviceGetMigMode(device *d, unsigned *now, unsigned *next) {
    if (!strcmp(d->name, "OldGpu")) return UNSUPPORTED;
    *now = *next = d->mig;
    return OK;
}
int nvmlDeviceGetMaxMigDeviceCount(device *d, unsigned *n) { *n = d->mig ? 4 : 0; return OK; }
int nvmlDeviceGetMigDeviceHandleByIndex(device *d, unsigned i, device **out) {
    if (i >= (unsigned)d->slices) return MISSING;
    *out = &slices[d->index][i];
    return OK;
}
int nvmlDeviceGetUtilizationRates(device *d, rates *out) {
    if (d->is_slice) return UNSUPPORTED;
    out->gpu = 10 + d->index; out->memory = 20 + d->index;
    return OK;
}
int nvmlDeviceGetMemoryInfo(device *d, memory *out) {
    out->total = 80ULL << 30; out->used = (unsigned long long)(100 + d->index) << 20;
    out->free = out->total - out->used;
    return OK;
}
"""

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

EIGHT = ",".join(["NVIDIA H100"] * 8)


def uuid(index: int) -> str:
    return f"GPU-{index}000000{index}-aaaa"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("nvml")
    (folder / "stub.c").write_text(STUB)
    command = [compiler, "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "stub.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder


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
