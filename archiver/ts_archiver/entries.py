"""What the readers of zip, .tar.gz and folders have in common: entries, safe names, limits.

`unpacking` and `inspecting` use them without knowing which kind of archive they read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from ts_archiver.errors import TooLarge, UnsafeArchive

CHUNK = 1 << 20

Seen = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much an archive may hold. Attacks by size ("zip bombs") end here.

    Args:
        max_total_bytes: bytes of all files, unpacked.
        max_ratio: unpacked bytes for one byte of the archive, heeded above ``ratio_from`` bytes:
            small texts may shrink a thousandfold and harm nobody.
        max_entries: files and folders.
    """

    max_total_bytes: int = 256 << 30
    max_ratio: float = 100.0
    ratio_from: int = 1 << 30
    max_entries: int = 200_000

    def check(self, origin: str, entries: int, unpacked: int, packed: int) -> None:
        """Refuse what is too large.

        Args:
            unpacked: bytes so far, or in all where that is known.
            packed: bytes of the archive that they come from.

        Raises:
            TooLarge: the message says which limit, and what to do.
        """
        if entries > self.max_entries:
            raise TooLarge(f"{origin} holds more than {self.max_entries} entries. Package fewer.")
        if unpacked > self.max_total_bytes:
            raise TooLarge(
                f"{origin} unpacks to more than {self.max_total_bytes} bytes. Raise the limit on "
                "unpacked bytes if you trust it."
            )
        if unpacked > self.ratio_from and unpacked > self.max_ratio * packed:
            raise TooLarge(
                f"{origin} unpacks to more than {self.max_ratio:g} times its own size, as attacks "
                "do. Raise the limit on the ratio if you trust it."
            )


class Entry(Protocol):
    """One file of an archive. Use it before asking for the next."""

    @property
    def name(self) -> str:
        """A safe relative name with single slashes; see `safe_name`."""

    @property
    def is_folder(self) -> bool: ...
    @property
    def size(self) -> int:
        """Bytes, unpacked."""

    @property
    def storage(self) -> str:
        """For people: "stored", "deflated", "gzip", "folder"."""

    def chunks(self) -> Iterator[bytes]:
        """The contents; raises CorruptArchive where a checksum does not fit."""

    def copy_to(self, fd: int, seen: Seen) -> None:
        """Write the contents to an empty file opened for reading and writing, and check them;
        ``seen`` is told of them piece by piece."""


def copy_chunks(entry: Entry, fd: int, seen: Seen) -> None:
    """`Entry.copy_to` for entries that know no faster way."""
    for chunk in entry.chunks():
        seen(chunk)
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]


_DRIVE = re.compile(r"[A-Za-z]:")


def safe_name(raw: str, origin: str) -> str:
    """A name from an archive as a relative path that stays inside its folder.

    Windows' spellings are refused everywhere: an archive must mean the same on each system.

    Raises:
        UnsafeArchive: the name is absolute, climbs with "..", or can't be a file name.
    """
    normal = raw.replace("\\", "/")
    if normal.startswith("/") or _DRIVE.match(normal):
        raise UnsafeArchive(f"{origin} holds the absolute path {raw!r}. Don't use this archive.")
    if ".." in normal.split("/"):
        raise UnsafeArchive(
            f"{origin} holds {raw!r}, which leads out of its folder. Don't use this archive."
        )
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if "\0" in raw:
        raise UnsafeArchive(f"{origin} holds the impossible file name {raw!r}.")
    return str(PurePosixPath(*parts)) if parts else ""
