"""Locks that last as long as a process: they tell what belongs to a living server.

`own_folder` and `part_file` take them. The kernel drops an flock when its holder dies,
in whatever way, and unlike a process number it is never taken again by another program.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)


def lock(file: int) -> bool | None:
    """Take the lock of an open file or folder, without waiting.

    Returns:
        Whether it is ours; None where there are no locks, for nobody.
    """
    if sys.platform == "win32":
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def remove_left(folder: Path, name: re.Pattern[str], remove: Callable[[Path], None]) -> None:
    """Remove what servers of the same user that were killed left in a folder. Blocks.

    Args:
        name: of what carries such a lock while its server lives.
        remove: fails with OSError for what is of another kind.
    """
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if name.fullmatch(entry.name):
                _remove_if_left(Path(entry.path), remove)


def _remove_if_left(path: Path, remove: Callable[[Path], None]) -> None:
    if sys.platform == "win32":
        return
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if os.fstat(file).st_uid == os.getuid() and lock(file):
                remove(path)
                logger.info("Removed %s, left by a server that was killed", path)
        finally:
            os.close(file)
