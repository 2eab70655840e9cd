"""The control groups that this process is in, of version 1 and 2, and what they limit.

`threads` asks for cores and `memory` for bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

_Reader = Callable[[Path], "float | None"]


def memberships(root: Path) -> list[tuple[str, str]]:
    """(controllers, path) of each line ``id:controllers:path``; v2 has no controllers."""
    lines = read(root / "proc/self/cgroup").splitlines()
    parts = [line.split(":", 2) for line in lines]
    return [(part[1], part[2]) for part in parts if len(part) == 3]


def walk(mount: Path, path: str, limit: _Reader) -> list[float]:
    """Limits of the group and its parents: each of them limits. In a container the path may be
    the host's and missing here; the walk then still reaches the mount, which is our own group."""
    inside = PurePosixPath(path.lstrip("/"))
    groups = [mount / group for group in (inside, *inside.parents)]
    return [found for group in groups if (found := limit(group)) is not None]


def read(path: Path) -> str:
    """The text of a file; empty where it can't be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
