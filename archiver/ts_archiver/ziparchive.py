"""Reads zip archives (.mar) from people we don't trust.

`reading` opens them. Everything that the directory at the end claims is checked before the first
byte is unpacked; stored files are then copied inside the kernel.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from ts_archiver.entries import CHUNK, Limits, Seen, copy_chunks, safe_name
from ts_archiver.errors import CorruptArchive, UnsafeArchive

_LOCAL_HEADER = struct.Struct("<4s22xHH")
_ENCRYPTED = 0x1 | 0x40
_PIECE = 8 << 20
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}

# What zipfile raises for files that are not what they claim.
_FORMAT_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class ZipEntry:
    """One entry of an open zip; ``offset`` is where its data starts in the file."""

    name: str
    is_folder: bool
    info: zipfile.ZipInfo
    offset: int
    archive: zipfile.ZipFile
    file: BinaryIO
    origin: str

    @property
    def size(self) -> int:
        return self.info.file_size

    @property
    def storage(self) -> str:
        return _METHODS[self.info.compress_type]

    def chunks(self) -> Iterator[bytes]:
        count = 0
        with _translated(self.origin), self.archive.open(self.info) as file:
            while chunk := file.read(CHUNK):
                count += len(chunk)
                yield chunk
        if count != self.size:
            raise CorruptArchive(f"{self.origin}: {self.name} is shorter than it claims.")

    def copy_to(self, fd: int, seen: Seen) -> None:
        if self.info.compress_type == zipfile.ZIP_STORED and hasattr(os, "copy_file_range"):
            self._copy_stored(fd, seen)
        else:
            copy_chunks(self, fd, seen)

    def _copy_stored(self, fd: int, seen: Seen) -> None:
        """Piece by piece, so that each is checked while the processor still has it in its cache.

        Checked is what lies in the new file, not what was read: that is what will be loaded.
        """
        crc = done = 0
        while done < self.size:
            wanted = min(_PIECE, self.size - done)
            count = _copy_piece(self.file.fileno(), self.offset + done, fd, done, wanted)
            if count == 0:
                raise CorruptArchive(f"{self.origin}: {self.name} is shorter than it claims.")
            for chunk in _read_back(fd, done, count):
                crc = zlib.crc32(chunk, crc)
                seen(chunk)
            done += count
        if crc != self.info.CRC:
            raise CorruptArchive(f"{self.origin}: the checksum of {self.name} does not fit.")


@contextlib.contextmanager
def open_zip(path: Path, limits: Limits) -> Iterator[Iterator[ZipEntry]]:
    """The entries of a zip, in the order of its directory, after all checks that need no data.

    Raises:
        CorruptArchive, UnsafeArchive, TooLarge
    """
    origin = str(path)
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        with _translated(origin):
            archive = stack.enter_context(zipfile.ZipFile(file))
            infos = archive.infolist()
            total = sum(info.file_size for info in infos)
            limits.check(origin, len(infos), total, file.seek(0, os.SEEK_END))
            entries = [_entry(info, archive, file, origin) for info in infos]
        _check_overlap(entries, archive.start_dir, origin)
        yield iter(entries)


def directory(file: BinaryIO, origin: str) -> bytes:
    """The end of an open zip: names, sizes and CRC-32s of all that it holds.

    Raises:
        CorruptArchive
    """
    with _translated(origin), zipfile.ZipFile(file) as archive:
        file.seek(archive.start_dir)
        return file.read()


def _entry(
    info: zipfile.ZipInfo, archive: zipfile.ZipFile, file: BinaryIO, origin: str
) -> ZipEntry:
    name = safe_name(info.filename, origin)
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UnsafeArchive(f"{origin}: {name} is a link or a device. Package plain files.")
    if info.flag_bits & _ENCRYPTED:
        raise UnsafeArchive(f"{origin}: {name} is encrypted. Package it without a password.")
    if info.compress_type not in _METHODS:
        raise CorruptArchive(
            f"{origin}: {name} is compressed by method {info.compress_type}. Use store or deflate."
        )
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        raise CorruptArchive(f"{origin}: {name} is stored with two different sizes.")
    return ZipEntry(name, info.is_dir(), info, _data_offset(info, file), archive, file, origin)


def _data_offset(info: zipfile.ZipInfo, file: BinaryIO) -> int:
    file.seek(info.header_offset)
    magic, name_length, extra_length = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if magic != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"no header where {info.filename!r} should start")
    return info.header_offset + _LOCAL_HEADER.size + int(name_length) + int(extra_length)


def _check_overlap(entries: list[ZipEntry], end: int, origin: str) -> None:
    """Entries that share data unpack to far more than any one ratio shows."""
    spans = sorted(
        (entry.info.header_offset, entry.offset + entry.info.compress_size) for entry in entries
    )
    for (_, stop), (following, _) in pairwise([*spans, (end, end)]):
        if stop > following:
            raise UnsafeArchive(
                f"{origin}: entries overlap or leave the file. It is cut short or an attack; "
                "copy it again from its source."
            )


def _copy_piece(source: int, start: int, target: int, position: int, size: int) -> int:
    """Copy inside the kernel, else through this process; returns how many bytes, 0 at the end.

    Source and target offsets on page borders let file systems with reflinks share the blocks.
    """
    try:
        return os.copy_file_range(source, target, size, start, position)
    except OSError:
        # Another file system, an old kernel, a sandbox: reading and writing works everywhere,
        # and meets a real error (a full disk) again by itself.
        return os.pwrite(target, os.pread(source, min(size, CHUNK), start), position)


def _read_back(fd: int, position: int, size: int) -> Iterator[bytes]:
    end = position + size
    while position < end and (chunk := os.pread(fd, min(CHUNK, end - position), position)):
        position += len(chunk)
        yield chunk


@contextlib.contextmanager
def _translated(origin: str) -> Iterator[None]:
    """One kind of error for all the ways in which a zip can be broken."""
    try:
        yield
    except _FORMAT_ERRORS as error:
        raise CorruptArchive(
            f"{origin} is damaged ({error}). Copy it again from its source, or package it again."
        ) from error
