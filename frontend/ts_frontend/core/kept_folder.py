"""Folders that outlive the server and that servers of one user share: their locks, their removal.

`env_cache` and `archive_cache` keep such folders. Each carries a lock file: exclusive for who
builds or removes it, shared for who uses it. The kernel drops the locks of a server that dies.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import uuid
from pathlib import Path

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

NAME = re.compile(r"[0-9a-f]{32}")
LOCK = "lock"
_REMOVED = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.removed")


def make(folder: Path) -> None:
    """Make a folder, unless it is there.

    Raises:
        OSError: also where it belongs to another user, who might change what is in it.
    """
    if sys.platform == "win32":
        raise OSError("folders are not shared on Windows")
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True)
    for path in (folder.parent, folder):
        if not _trusted(path):
            raise PermissionError(0, "it belongs to another user", str(path))


def _trusted(path: Path) -> bool:
    return sys.platform == "win32" or path.stat().st_uid in (os.getuid(), 0)


def locked(lock: int, *, exclusive: bool) -> bool:
    """Take the lock of an open lock file, or change it, without waiting."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_current(lock: int, folder: Path) -> bool:
    """False where the folder was removed before the lock was ours."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder / LOCK))
    except FileNotFoundError:
        return False


def kept(folder: Path) -> list[Path]:
    """The folders in ``folder``, none where that belongs to another user, who may have put anything
    there; what a server that was killed was about to remove goes."""
    found = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries if _trusted(folder) else ():
            if _REMOVED.fullmatch(entry.name):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif NAME.fullmatch(entry.name):
                found.append(Path(entry.path))
    return found


def last_used(record: Path) -> float:
    """When a folder's record was touched, which its users do; 0 where it has none."""
    try:
        return record.stat().st_mtime
    except OSError:
        return 0


def remove_unused(folder: Path, kind: str) -> bool:
    """Remove a folder unless a server uses it; says whether it is gone.

    Args:
        kind: of its content, for the log.
    """
    with contextlib.suppress(OSError):
        lock = os.open(folder / LOCK, os.O_RDWR)
        try:
            if locked(lock, exclusive=True) and is_current(lock, folder):
                logger.info("Removing the %s %s, which no server uses", kind, folder)
                remove(folder)
                return True
        finally:
            os.close(lock)
    return False


def remove(folder: Path) -> None:
    """Remove a folder, whoever uses it."""
    # Gone by its name at once: who waits for the lock must not build in what is being deleted.
    aside = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}.removed")
    with contextlib.suppress(OSError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
