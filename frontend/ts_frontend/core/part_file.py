"""The files that downloads grow in, beside what they become, and the removal of those of dead
servers.

Each carries a `lifelock` while its download runs: servers on several machines may share a model
store, and do not know each other's processes.
"""

from __future__ import annotations

import re
import stat
import uuid
from pathlib import Path
from typing import IO

from ts_frontend.core import lifelock

_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.part")


def create(target: Path) -> tuple[Path, IO[bytes]]:
    """Make a part file beside ``target``; its lock goes when it is closed.

    Raises:
        OSError: the folder can't be written to.
    """
    while True:
        path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        file = path.open("xb")
        # Without locks nobody else can take it either.
        if lifelock.lock(file.fileno()) is not False and path.exists():
            return path, file
        file.close()  # another server that starts took it for a dead one's
        path.unlink(missing_ok=True)


def clear_stale(folder: Path) -> None:
    """Delete what downloads of the same user left whose servers were killed. Blocks."""
    lifelock.remove_left(folder, _NAME, _delete)


def _delete(path: Path) -> None:
    if not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(f"{path} is no file")
    path.unlink()
