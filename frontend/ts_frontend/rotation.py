"""Rolling of a log file: by size and by day, compressed, the newest few kept.

`log_files` calls it from its writer thread; compressing runs in a thread of its own, so that
lines go on being written meanwhile. Names are TorchServe's: ``access_log.30-May.log.gz``.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path

KEPT = 5
MAX_BYTES = 100 << 20
# Not strftime's %b, which depends on the locale.
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def day_of(seconds: float) -> str:
    """The local day as it stands in the name of a rolled file: ``30-May``."""
    local = time.localtime(seconds)
    return f"{local.tm_mday:02d}-{_MONTHS[local.tm_mon - 1]}"


def roll(path: Path, day: str) -> threading.Thread:
    """Move a log file aside and start compressing it.

    The second file of a day gets a number, where TorchServe overwrites the first.

    Args:
        path: the live file, such as ``logs/access_log.log``; afterwards it no longer exists.
        day: the day its lines are from, see `day_of`.

    Returns:
        The running thread; whoever closes the log waits for it.

    Raises:
        OSError: the file can't be moved.
    """
    aside = _free_name(path, day)
    path.rename(aside)
    thread = threading.Thread(target=_compress, args=(aside, path), name="log-rotation")
    thread.start()
    return thread


def _free_name(path: Path, day: str) -> Path:
    number = 0
    while True:
        suffix = f".{number}" if number else ""
        aside = path.with_name(f"{path.stem}.{day}{suffix}{path.suffix}")
        if not aside.exists() and not aside.with_name(aside.name + ".gz").exists():
            return aside
        number += 1


def _compress(aside: Path, live: Path) -> None:
    """Replace the file by its .gz; on failure the plain file stays, nothing is lost."""
    partial = aside.with_name(f".{aside.name}.gz.part")
    try:
        with aside.open("rb") as source, gzip.open(partial, "wb", compresslevel=3) as target:
            shutil.copyfileobj(source, target, 1 << 20)
        modified = aside.stat()
        os.utime(partial, ns=(modified.st_atime_ns, modified.st_mtime_ns))
        partial.rename(aside.with_name(aside.name + ".gz"))
        aside.unlink()
        _prune(live)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        print(f"Log file {aside} can't be compressed: {error}", file=sys.stderr)


def _prune(live: Path) -> None:
    name = re.compile(rf"{re.escape(live.stem)}\.\d\d-[A-Z][a-z]{{2}}(\.\d+)?\.log\.gz")
    rolled: list[tuple[int, Path]] = []
    for found in live.parent.iterdir():
        # Another thread may be removing the same ones: files can roll faster than they compress.
        with contextlib.suppress(FileNotFoundError):
            if name.fullmatch(found.name):
                rolled.append((found.stat().st_mtime_ns, found))
    for _, old in sorted(rolled, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
