"""Environments that models share and that outlive the server, each in a folder named by a hash of
what it was made of. `python_env` gets them here, `management` gives them back.

`kept_folder` has their locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import weakref
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ts_frontend.core import kept_folder
from ts_frontend.core.kept_folder import is_current, locked

if TYPE_CHECKING:
    from ts_frontend.config import Config

Record = Mapping[str, str]

_RECORD = "environment.json"
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
        found = kept_folder.kept(self.folder)
        used = sorted((kept_folder.last_used(path / _RECORD), path) for path in found)
        for number, (when, path) in enumerate(used, start=1):
            if when == 0 or number <= len(used) - self._keep:
                kept_folder.remove_unused(path, "environment")

    async def _enter(
        self, folder: Path, lock: int, build: Callable[[Path], Awaitable[Record]]
    ) -> Record | None:
        """None where somebody else is at it, or just was: look again."""
        if _read(folder) is None:
            if not (locked(lock, exclusive=True) and is_current(lock, folder)):
                return None
            if _read(folder) is None:
                await _make(folder, build)
                await asyncio.to_thread(self.prune)
        # A lock that becomes a shared one is nobody's in between, hence the second look.
        if not (locked(lock, exclusive=False) and is_current(lock, folder)):
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
    kept_folder.make(folder)
    try:
        return os.open(folder / kept_folder.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:
        if _read(folder) is None:
            raise
        # In an image: used, never removed.
        return os.open(folder / kept_folder.LOCK, os.O_RDONLY)


async def _make(folder: Path, build: Callable[[Path], Awaitable[Record]]) -> None:
    try:
        record = await build(folder)
        draft = folder / f"{_RECORD}.new"
        draft.write_text(json.dumps(record, indent=2) + "\n")
        draft.replace(folder / _RECORD)
    except BaseException:
        await asyncio.shield(asyncio.to_thread(kept_folder.remove, folder))
        raise


def _read(folder: Path) -> Record | None:
    """None also where the folder was moved, since paths in it are the old ones."""
    try:
        record = json.loads((folder / _RECORD).read_bytes())
        return record if os.path.samefile(record["folder"], folder) else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
