"""A libnvidia-ml with as many GPUs as the environment says, for the real pynvml."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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

EIGHT = ",".join(["NVIDIA H100"] * 8)


def uuid(index: int) -> str:
    """The UUID of a GPU of the stub."""
    return f"GPU-{index}000000{index}-aaaa"


def build(folder: Path) -> Path:
    """Compile it into a folder for LD_LIBRARY_PATH; without a compiler the test is skipped."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    (folder / "stub.c").write_text(STUB)
    command = [compiler, "-shared", "-fPIC", "-o", "libnvidia-ml.so.1", "stub.c"]
    subprocess.run(command, cwd=folder, check=True)
    return folder
