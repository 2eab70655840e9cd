"""Memory that is left, by the kernel and by cgroups, with their files in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts_frontend.core.memory import available_memory

MEMINFO = {"proc/meminfo": "MemTotal: 4000 kB\nMemAvailable:    3000 kB\n"}
V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "3:memory:/x\n2:cpu:/y\n"}
GROUP = "sys/fs/cgroup/a/b/memory"
OLD = "sys/fs/cgroup/memory/x/memory"


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, None),
        (MEMINFO, 3000 * 1024),
        ({**MEMINFO, **V2, f"{GROUP}.max": "max\n", f"{GROUP}.current": "10\n"}, 3000 * 1024),
        ({**MEMINFO, **V2, f"{GROUP}.max": "1000\n", f"{GROUP}.current": "400\n"}, 600),
        (
            {
                **V2,
                f"{GROUP}.max": "1000\n",
                f"{GROUP}.current": "400\n",
                f"{GROUP}.stat": "anon 5\nactive_file 7\ninactive_file 150\n",
            },
            750,
        ),
        (  # a parent limits as well
            {
                **V2,
                f"{GROUP}.max": "1000",
                f"{GROUP}.current": "400",
                "sys/fs/cgroup/a/memory.max": "1000",
                "sys/fs/cgroup/a/memory.current": "900",
            },
            100,
        ),
        ({**MEMINFO, **V2, f"{GROUP}.max": "10", f"{GROUP}.current": "400"}, 0),
        (
            {
                **V1,
                f"{OLD}.limit_in_bytes": "5000",
                f"{OLD}.usage_in_bytes": "2000",
                f"{OLD}.stat": "inactive_file 1\ntotal_inactive_file 300\n",
            },
            3300,
        ),
    ],
)
def test_memory_that_is_left(tmp_path: Path, files: dict[str, str], left: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_memory(tmp_path) == left
