"""Unpacked archives that outlive the server: a start unpacks only what it has not met before.

`store` puts a model's files where it wants them with `take`, and gives them back with `release`. An
entry is named by a hash of its content, so that copies of an archive share one, and lists the
fingerprints of the files that it came from. It is made under another name and renamed once whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ts_archiver import Limits, Manifest, extract_hashed, fingerprint, read_manifest
from ts_frontend.core import kept_folder, lifelock
from ts_frontend.core.archive_entry import (
    FILES,
    RECORD,
    Damaged,
    content_key,
    place,
    record,
    size_of,
)

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

_DRAFT = re.compile(r"[0-9a-f]{32}\.new")
_SOURCES = "sources"
_MAX_SOURCES = 16  # files that an entry is known by; one that moves gets a new fingerprint
_ATTEMPTS = 3  # at a name that another server takes at the same time


class ArchiveCache:
    """The folder of all unpacked archives. Its methods block: call them in a thread.

    Args:
        folder: made when the first archive is unpacked.
        keep: bytes; of more than these the least recently used go, unless a server uses them.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self._keep = keep
        self._held: dict[Path, int] = {}

    def take(self, source: Path, root: Path, limits: Limits) -> Manifest:
        """Put an archive's files into ``root``, a new folder, and return its manifest.

        The entry stays until `release` of ``root``.

        Raises:
            ReadError: as `ts_archiver.extract`.
            OSError: the cache can't be used, or ``root`` not be written. ``root`` is gone.
        """
        # What an earlier server let pass under larger limits is looked at again.
        known_as = _known_as(source, limits)
        try:
            if any(self._use(entry, root) for entry in self._known(known_as)):
                return read_manifest(root)
            return self._unpack(source, root, limits, known_as)
        except BaseException:
            self.release(root)
            shutil.rmtree(root, ignore_errors=True)
            raise

    def release(self, root: Path) -> None:
        """Let go of what ``root`` was made from; nothing happens where that is not the cache."""
        lock = self._held.pop(root, None)
        if lock is not None:
            os.close(lock)

    def prune(self, keep: int | None = None) -> None:
        """Remove, of too many bytes, what was not used for longest and is not in use.

        What nobody uses also gets no more than a quarter of the room that there is for it.
        """
        entries = sorted((kept_folder.last_used(path / RECORD), path) for path in self._entries())
        sizes = {path: size_of(path) for _, path in entries}
        total = sum(sizes.values())
        keep = self._keep if keep is None else keep
        with contextlib.suppress(OSError):
            keep = min(keep, (total + shutil.disk_usage(self.folder).free) // 4)
        for when, path in entries:
            if (when == 0 or total > keep) and kept_folder.remove_unused(path, "unpacked archive"):
                total -= sizes[path]

    def clear_stale(self) -> None:
        """Remove what servers that were killed had half unpacked, and too much of the rest."""
        lifelock.remove_left(self.folder, _DRAFT, shutil.rmtree)
        self.prune()

    def _entries(self) -> list[Path]:
        return kept_folder.kept(self.folder)

    def _known(self, known_as: str) -> Iterator[Path]:
        """The entry that came from an archive, if there is one."""
        for entry in self._entries():
            if (entry / _SOURCES / known_as).exists():
                yield entry

    def _use(self, entry: Path, root: Path) -> bool:
        """Put an entry's files into ``root``; False where there is none that can be used."""
        try:
            lock = os.open(entry / kept_folder.LOCK, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            if not (
                kept_folder.locked(lock, exclusive=False) and kept_folder.is_current(lock, entry)
            ):
                os.close(lock)
                return False
            place(entry, root)
            os.utime(entry / RECORD)
        except Damaged as error:
            os.close(lock)
            logger.warning("The unpacked archive %s is made anew: %s", entry, error)
            shutil.rmtree(root, ignore_errors=True)
            kept_folder.remove(entry)  # who uses it has links and copies of its own
            return False
        except BaseException:
            os.close(lock)
            raise
        self._held[root] = lock
        return True

    def _unpack(self, source: Path, root: Path, limits: Limits, known_as: str) -> Manifest:
        with self._draft() as draft:
            manifest, hashes = extract_hashed(source, draft / FILES, limits=limits)
            record(draft, hashes)
            (draft / _SOURCES).mkdir()
            (draft / kept_folder.LOCK).touch(0o600)
            # An archive that was replaced meanwhile is not known as what it is now.
            names = [known_as] if _known_as(source, limits) == known_as else []
            entry = self.folder / content_key(draft / FILES, hashes)
            for _ in range(_ATTEMPTS):
                with contextlib.suppress(OSError):  # it is there: under another name, or just now
                    draft.rename(entry)
                if self._use(entry, root):
                    _add_sources(entry, names)
                    self.prune()
                    return manifest
        raise OSError(f"{entry} is made and removed by others all the time")

    @contextlib.contextmanager
    def _draft(self) -> Iterator[Path]:
        """A new folder that goes away unless it is renamed, also when this server is killed."""
        path = self.folder / f"{uuid.uuid4().hex}.new"
        lock = -1
        while lock < 0:
            kept_folder.make(path)
            with contextlib.suppress(FileNotFoundError):  # taken for a dead server's, before it
                lock = os.open(path, os.O_RDONLY)  # was locked
                if lifelock.lock(lock) is False or not path.exists():
                    os.close(lock)
                    lock = -1
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(lock)


def open_archive_cache(config: Config) -> ArchiveCache | None:
    """The cache where the configuration has it, else in the temporary folder, where models are
    unpacked: links don't lead from one file system to another. None where it is switched off."""
    if config.archive_cache_max == 0 or sys.platform == "win32":
        return None
    folder = config.archive_cache or config.temp_dir / f"torchserve-py-archives-{os.getuid()}"
    return ArchiveCache(folder.absolute(), config.archive_cache_max)


def _known_as(source: Path, limits: Limits) -> str:
    return hashlib.sha256(f"{fingerprint(source)} {limits}".encode()).hexdigest()


def _add_sources(entry: Path, names: list[str]) -> None:
    """Remember what an entry came from, the latest few."""
    folder = entry / _SOURCES
    with contextlib.suppress(OSError):
        for name in names:
            (folder / name).touch()
        found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for path in found[:-_MAX_SOURCES]:
            path.unlink(missing_ok=True)
