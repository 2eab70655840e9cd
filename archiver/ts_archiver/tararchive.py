"""Reads .tar.gz archives from people we don't trust, in one pass and in bounded memory.

`reading` opens them. As in TorchServe the first folder of each name is dropped: the tools put
everything under ``<model name>/``.
"""

from __future__ import annotations

import contextlib
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ts_archiver.entries import CHUNK, Limits, Seen, copy_chunks, safe_name
from ts_archiver.errors import CorruptArchive, TooLarge, UnsafeArchive

# Headers of one entry (long names, pax fields) and tarfile's reading ahead.
_HEADER_BYTES = 4 << 20
_FORMAT_ERRORS = (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, ValueError)


@dataclass(frozen=True, slots=True)
class TarEntry:
    name: str
    is_folder: bool
    size: int
    file: IO[bytes] | None
    origin: str

    @property
    def storage(self) -> str:
        return "gzip"

    def chunks(self) -> Iterator[bytes]:
        if self.file is None:
            return
        count = 0
        with _translated(self.origin):
            while chunk := self.file.read(CHUNK):
                count += len(chunk)
                yield chunk
        if count != self.size:
            raise CorruptArchive(f"{self.origin}: {self.name} is shorter than it claims.")

    def copy_to(self, fd: int, seen: Seen) -> None:
        copy_chunks(self, fd, seen)

    def skip(self) -> None:
        """Read what the caller left, so that only the next header is still to come."""
        with _translated(self.origin):
            while self.file is not None and self.file.read(CHUNK):
                pass


class _Metered:
    """The unpacked stream, which ends a header that claims gigabytes of memory."""

    def __init__(self, stream: gzip.GzipFile, origin: str) -> None:
        self._stream = stream
        self._origin = origin
        self._allowance = _HEADER_BYTES

    def allow(self, count: int) -> None:
        self._allowance = count + _HEADER_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._allowance -= len(data)
        if self._allowance < 0:
            raise TooLarge(f"{self._origin}: the header of an entry is too long. Don't use it.")
        return data


@contextlib.contextmanager
def open_tar(path: Path, limits: Limits) -> Iterator[Iterator[TarEntry]]:
    """The entries of a .tar.gz, in the order of the file. Read each before the next.

    Raises:
        CorruptArchive, UnsafeArchive, TooLarge: also while iterating.
    """
    origin = str(path)
    packed = path.stat().st_size
    with gzip.open(path, "rb") as stream, contextlib.ExitStack() as stack:
        metered = _Metered(stream, origin)
        with _translated(origin):
            tar = stack.enter_context(
                # A stream of its own blocks: mode "r:" would seek back and inflate again.
                tarfile.open(fileobj=metered, mode="r|", bufsize=CHUNK)  # type: ignore[call-overload]
            )
        yield _entries(tar, metered, limits, packed, origin)


def _entries(
    tar: tarfile.TarFile, metered: _Metered, limits: Limits, packed: int, origin: str
) -> Iterator[TarEntry]:
    total = 0
    number = 0
    while True:
        with _translated(origin):
            member = tar.next()
        if member is None:
            break
        number += 1
        total += member.size
        limits.check(origin, number, total, packed)
        metered.allow(member.size)
        entry = _entry(tar, member, origin)
        yield entry
        entry.skip()
        metered.allow(0)
        tar.members = []  # type: ignore[attr-defined]  # it keeps every header for random access
    with _translated(origin):
        _check_end(tar, origin)


def _entry(tar: tarfile.TarFile, member: tarfile.TarInfo, origin: str) -> TarEntry:
    name = safe_name(member.name, origin)
    if member.name == "MAR-INF/MANIFEST.json":
        raise CorruptArchive(
            f"{origin}: there must be one folder around all files. Package it again, with "
            "--archive-format tgz."
        )
    if not (member.isreg() or member.isdir()) or member.issparse():
        raise UnsafeArchive(f"{origin}: {name} is a link or a device. Package plain files.")
    # As it stands in the header: `tar -C folder .` writes "./name", and the dot is what goes.
    first, slash, rest = member.name.partition("/")
    if member.isdir():
        return TarEntry(safe_name(rest, origin), True, 0, None, origin)
    inner = safe_name(rest if slash else first, origin)
    return TarEntry(inner, False, member.size, tar.extractfile(member), origin)


def _check_end(tar: tarfile.TarFile, origin: str) -> None:
    """Read to the end, where gzip's checksum is; tarfile takes a broken header for the end."""
    rest = tar.fileobj
    while rest is not None and (chunk := rest.read(CHUNK)):
        if chunk.strip(b"\0"):
            raise CorruptArchive(f"{origin} is damaged after its last file. Copy it again.")


@contextlib.contextmanager
def _translated(origin: str) -> Iterator[None]:
    try:
        yield
    except _FORMAT_ERRORS as error:
        raise CorruptArchive(
            f"{origin} is damaged ({error}). Copy it again from its source, or package it again."
        ) from error
