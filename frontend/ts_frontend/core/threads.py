"""How many cores this process may really use; `supervisor` divides them among workers."""

from __future__ import annotations

import os
from pathlib import Path

from ts_frontend.core.cgroups import memberships, read, walk


def usable_cores(root: Path = Path("/")) -> int:
    """Cores of the affinity mask, or fewer when a cgroup (v1 or v2) limits CPU time; at least 1.

    A quota of 2.5 cores gives 2: a third thread would only be throttled.

    Args:
        root: where ``proc`` and ``sys`` are looked for, so that tests need no cgroup.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    quota = _quota(root)
    return cores if quota is None else max(1, min(cores, int(quota)))


def _quota(root: Path) -> float | None:
    quotas: list[float] = []
    for controllers, path in memberships(root):
        if controllers == "":
            quotas += walk(root / "sys/fs/cgroup", path, _read_v2)
        elif "cpu" in controllers.split(","):
            for mount in {controllers, "cpu"}:
                quotas += walk(root / "sys/fs/cgroup" / mount, path, _read_v1)
    return min(quotas, default=None)


def _read_v2(group: Path) -> float | None:
    fields = read(group / "cpu.max").split()
    return _ratio(fields[0], fields[1]) if len(fields) == 2 else None


def _read_v1(group: Path) -> float | None:
    return _ratio(read(group / "cpu.cfs_quota_us"), read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    try:
        limit, span = int(quota), int(period)
    except ValueError:  # "max", or no such file
        return None
    return limit / span if limit > 0 and span > 0 else None
