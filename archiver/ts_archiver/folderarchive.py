"""Reads an unpacked archive: a plain folder, as --archive-format no-archive makes it.

`reading` opens it. A folder is the operator's own, so there are no limits; links are read through.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ts_archiver.entries import CHUNK, Seen, copy_chunks


@dataclass(frozen=True, slots=True)
class FolderEntry:
    name: str
    path: Path
    size: int

    @property
    def is_folder(self) -> bool:
        return False

    @property
    def storage(self) -> str:
        return "folder"

    def chunks(self) -> Iterator[bytes]:
        with self.path.open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def copy_to(self, fd: int, seen: Seen) -> None:
        copy_chunks(self, fd, seen)


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[Iterator[FolderEntry]]:
    """The files below ``path``, sorted by name."""
    yield _entries(path)


def _entries(path: Path) -> Iterator[FolderEntry]:
    files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    for file in sorted(files):
        yield FolderEntry(file.relative_to(path).as_posix(), file, file.stat().st_size)
