"""How much memory this process may still take; `load_gate` asks before a worker loads its model."""

from __future__ import annotations

import re
from pathlib import Path

from ts_frontend.core.cgroups import memberships, read, walk

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = ("memory.max", "memory.current", "inactive_file")


def available_memory(root: Path = Path("/")) -> int | None:
    """Bytes that can be had without swapping, or fewer where a cgroup (v1 or v2) limits them; None
    where the system does not say.

    Pages of files that nobody uses count as free: the kernel takes them back by itself.

    Args:
        root: where ``proc`` and ``sys`` are looked for, so that tests need no cgroup.
    """
    found: list[float] = []
    match = re.search(r"^MemAvailable:\s+(\d+) kB", read(root / "proc/meminfo"), re.MULTILINE)
    if match is not None:
        found.append(int(match[1]) * 1024)
    for controllers, path in memberships(root):
        if controllers == "":
            found += walk(root / "sys/fs/cgroup", path, lambda group: _left(group, *_V2))
        elif "memory" in controllers.split(","):
            found += walk(root / "sys/fs/cgroup/memory", path, lambda group: _left(group, *_V1))
    return max(0, int(min(found))) if found else None


def _left(group: Path, limit: str, usage: str, unused: str) -> float | None:
    try:
        most, used = int(read(group / limit)), int(read(group / usage))
    except ValueError:  # "max", or no such file
        return None
    match = re.search(rf"^{unused} (\d+)$", read(group / "memory.stat"), re.MULTILINE)
    return most - used + (0 if match is None else int(match[1]))
