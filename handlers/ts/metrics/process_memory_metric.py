"""Memory and processor use of the workers, named by their pids."""

from __future__ import annotations

import logging
from typing import Any, Dict

logger = logging.getLogger(__name__)


def get_cpu_usage(pid: str) -> int:
    """Resident memory of a process in bytes, 0 once it has ended; the name is TorchServe's."""
    import psutil

    try:
        return int(psutil.Process(int(pid)).memory_info().rss)
    except (psutil.Error, ValueError):
        logger.error("Failed to get the memory of process %s", pid)
        return 0


def check_process_mem_usage(stdin: Any) -> None:
    """Print ``pid:bytes`` for each pid of a comma-separated line read from ``stdin``."""
    used: Dict[str, int] = {}
    for pid in stdin.readline().strip().split(","):
        if pid.strip():
            used[pid.strip()] = get_cpu_usage(pid)
    for pid, memory in used.items():
        print(f"{pid}:{memory}", flush=True)
