"""The files that downloads grow in, beside what they become, and the removal of those of dead
servers.

Each carries an flock while its download runs: unlike a process number a lock is never used again by
another program, and servers on several machines may share a model store.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import uuid
from pathlib import Path
from typing import IO

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

_NAME = re.compile(r"\..+\.[0-9a-f]{32}\.part")


def create(target: Path) -> tuple[Path, IO[bytes]]:
    """Make a part file beside ``target``; its lock goes when it is closed.

    Raises:
        OSError: the folder can't be written to.
    """
    while True:
        path = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        file = path.open("xb")
        if _lock(file.fileno(), otherwise=True) and path.exists():
            return path, file
        file.close()  # another server that starts took it for a dead one's
        path.unlink(missing_ok=True)


def clear_stale(folder: Path) -> None:
    """Delete what downloads of the same user left whose servers were killed. Blocks."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name):
                _delete_if_dead(Path(entry.path))


def _delete_if_dead(path: Path) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            status = os.fstat(file)
            ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if ours and _lock(file, otherwise=False):
                path.unlink()
                logger.info("Removed %s, left by a server that was killed", path)
        finally:
            os.close(file)


def _lock(file: int, *, otherwise: bool) -> bool:
    """Take the lock; ``otherwise`` is the answer where there are no locks."""
    if sys.platform == "win32":
        return otherwise
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return otherwise
    return True
