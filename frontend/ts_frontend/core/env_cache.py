"""Environments that models share and that outlive the server, each in a folder named by a hash of
what it was made of. `python_env` gets them here, `management` gives them back.

A folder carries a lock file: exclusive for who builds or removes it, shared for who uses it. The
kernel drops the locks of a server that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
import sys
import uuid
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

Record = Mapping[str, str]

_NAME = re.compile(r"[0-9a-f]{32}")
_REMOVED = re.compile(r"[0-9a-f]{32}-[0-9a-f]{32}\.removed")
_RECORD = "environment.json"
_LOCK = "lock"
_POLL = 0.2  # seconds; flock announces nothing to who does not block


class EnvCache:
    """The folder of all environments.

    Args:
        folder: made when the first environment is.
        keep: of more than these the least recently used go, unless a server uses them.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._held: dict[Path, int] = {}
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def take(
        self, key: str, holder: Path, build: Callable[[Path], Awaitable[Record]]
    ) -> Record:
        """The record of an environment, which stays until `release`.

        Args:
            key: 32 hexadecimal digits.
            holder: who it is for; has one at most.
            build: makes it in a folder if it isn't there; its record has that ``folder``. It
                stays there, since scripts in a venv have its path, so what makes it whole is that
                the record is written last.

        Raises:
            OSError: the folder can't be written to, or has no locks.
        """
        turn = self._turns.setdefault(key, asyncio.Lock())
        async with turn:
            while True:
                folder = self.folder / key
                lock = _open(folder)
                try:
                    record = await self._enter(folder, lock, build)
                except BaseException:
                    os.close(lock)
                    raise
                if record is not None:
                    self._held[holder] = lock
                    return record
                os.close(lock)
                await asyncio.sleep(_POLL)

    def release(self, holder: Path) -> bool:
        """Give back what a holder took; says whether there was something."""
        lock = self._held.pop(holder, None)
        if lock is not None:
            os.close(lock)
        return lock is not None

    def prune(self) -> None:
        """Remove what was left half-built, and of too many those not used for longest. Blocks."""
        used: list[tuple[float, Path]] = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                path = Path(entry.path)
                if _REMOVED.fullmatch(entry.name):  # by a server that was killed over it
                    shutil.rmtree(path, ignore_errors=True)
                elif _NAME.fullmatch(entry.name):
                    used.append((_last_used(path), path))
        used.sort()
        for number, (when, path) in enumerate(used, start=1):
            if when == 0 or number <= len(used) - self._keep:
                _remove_unused(path)

    async def _enter(
        self, folder: Path, lock: int, build: Callable[[Path], Awaitable[Record]]
    ) -> Record | None:
        """None where somebody else is at it, or just was: look again."""
        if _read(folder) is None:
            if not (_locked(lock, exclusive=True) and _is_current(lock, folder)):
                return None
            if _read(folder) is None:
                await _make(folder, build)
                await asyncio.to_thread(self.prune)
        # A lock that becomes a shared one is nobody's in between, hence the second look.
        if not (_locked(lock, exclusive=False) and _is_current(lock, folder)):
            return None
        record = _read(folder)
        if record is not None:
            with contextlib.suppress(OSError):
                os.utime(folder / _RECORD)
        return record


def open_env_cache(config: Config, environ: Mapping[str, str]) -> EnvCache:
    """The cache where the configuration has it, else in `default_folder`."""
    folder = config.py_env_cache or default_folder(environ, config.temp_dir)
    return EnvCache(folder.absolute(), config.py_env_cache_max)


def default_folder(environ: Mapping[str, str], temp: Path, kind: str = "envs") -> Path:
    """``torchserve-py/envs`` (or another kind) in the user's cache folder; in the temporary one for
    a user without a home, by number, since others may write there too."""
    if sys.platform == "win32":
        return temp / f"torchserve-py-{kind}"
    home, cache = environ.get("HOME", ""), environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(cache):
        if not os.path.isabs(home) or not os.access(home, os.W_OK):
            return temp / f"torchserve-py-{kind}-{os.getuid()}"
        cache = os.path.join(home, "Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(cache, "torchserve-py", kind)


def _open(folder: Path) -> int:
    """Raises OSError, also where what is there belongs to another user, who might change it."""
    if sys.platform == "win32":
        raise OSError("environments are not shared on Windows")
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True)
    for path in (folder.parent, folder):
        if path.stat().st_uid not in (os.getuid(), 0):
            raise PermissionError(0, "it belongs to another user", str(path))
    try:
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        if _read(folder) is None:
            raise
        return os.open(folder / _LOCK, os.O_RDONLY)  # in an image: used, never removed


def _locked(lock: int, *, exclusive: bool) -> bool:
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(lock, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_current(lock: int, folder: Path) -> bool:
    """False where the folder was removed before the lock was ours."""
    try:
        return os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK))
    except FileNotFoundError:
        return False


async def _make(folder: Path, build: Callable[[Path], Awaitable[Record]]) -> None:
    try:
        record = await build(folder)
        draft = folder / f"{_RECORD}.new"
        draft.write_text(json.dumps(record, indent=2) + "\n")
        draft.replace(folder / _RECORD)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(_remove, folder))
        raise


def _read(folder: Path) -> Record | None:
    """None also where the folder was moved, since paths in it are the old ones."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        return record if os.path.samefile(record["folder"], folder) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _last_used(folder: Path) -> float:
    try:
        return (folder / _RECORD).stat().st_mtime
    except OSError:
        return 0


def _remove_unused(folder: Path) -> None:
    with contextlib.suppress(OSError):
        lock = os.open(folder / _LOCK, os.O_RDWR)
        try:
            if _locked(lock, exclusive=True) and _is_current(lock, folder):
                logger.info("Removing the environment %s, which no server uses", folder)
                _remove(folder)
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    # Gone by its name at once: who waits for the lock must not build in what is being deleted.
    aside = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}.removed")
    with contextlib.suppress(OSError):
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)
