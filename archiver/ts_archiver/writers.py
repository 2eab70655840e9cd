"""Writes archives: zip (.mar), .tar.gz, or a plain folder.

`packing` opens one on a temporary name, adds every member and then the manifest. The same inputs
give the same bytes: fixed times, owners and modes.
"""

from __future__ import annotations

import contextlib
import struct
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from ts_archiver.gzipstream import DEFLATE, STORE, GzipStream
from ts_archiver.sources import Member
from ts_archiver.storage import PAGE, Storage, storage_of

Chunks = Iterable[bytes]

_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip can hold
_DATE_SECONDS = 315532800
_MODE = 0o644

# A private tag for padding that Android's tools and Apache Commons Compress know.
_PADDING_TAG = 0xD935
_LOCAL_HEADER = 30
_ZIP64_EXTRA = 20
# Well below the 2 GiB where zipfile would choose zip64 by itself: the header's length, and with
# it the alignment, must be known beforehand.
ZIP64_FROM = 1 << 30


class Writer(Protocol):
    def add(self, member: Member, chunks: Chunks) -> None:
        """Store ``member``, whose bytes are ``chunks``."""

    def add_bytes(self, name: str, data: bytes) -> None:
        """Store a small file from memory."""


@contextlib.contextmanager
def open_writer(archive_format: str, temporary: Path, model_name: str) -> Iterator[Writer]:
    """A writer for one of the four formats, complete on disk when the block ends."""
    if archive_format == "no-archive":
        temporary.mkdir()
        yield FolderWriter(temporary)
    elif archive_format == "tgz":
        with temporary.open("xb") as file:
            tgz = TgzWriter(file, model_name)
            yield tgz
            tgz.finish()
    else:
        with zipfile.ZipFile(temporary, "x") as archive:
            yield ZipWriter(archive, store_only=archive_format == "zip-store")


class ZipWriter:
    """A zip that TorchServe, Java and unzip read; tensors lie uncompressed on page borders."""

    def __init__(self, archive: zipfile.ZipFile, *, store_only: bool) -> None:
        self._archive = archive
        self._store_only = store_only

    def add(self, member: Member, chunks: Chunks) -> None:
        storage = storage_of(member.name, member.path)
        if storage is Storage.DEFLATED and self._store_only:
            storage = Storage.STORED
        self._write(member.name, member.size, chunks, storage)

    def add_bytes(self, name: str, data: bytes) -> None:
        storage = Storage.STORED if self._store_only else Storage.DEFLATED
        self._write(name, len(data), (data,), storage)

    def _write(self, name: str, size: int, chunks: Chunks, storage: Storage) -> None:
        info = zipfile.ZipInfo(name, _DATE)
        info.create_system = 3  # Unix, on every system
        info.external_attr = (0o100000 | _MODE) << 16
        info.file_size = size
        if storage is Storage.DEFLATED:
            info.compress_type = zipfile.ZIP_DEFLATED
        zip64 = size >= ZIP64_FROM
        if storage is Storage.TENSOR:
            info.extra = self._padding(info, zip64)
        with self._archive.open(info, "w", force_zip64=zip64) as out:
            for chunk in chunks:
                out.write(chunk)
        # Only the local header's padding moves data; in the central directory it is ballast.
        info.extra = b""

    def _padding(self, info: zipfile.ZipInfo, zip64: bool) -> bytes:
        """An extra field that makes the data after this member's header start on a page."""
        start = self._archive.start_dir  # the end of the previous member
        start += _LOCAL_HEADER + len(info.filename.encode()) + (_ZIP64_EXTRA if zip64 else 0)
        smallest = struct.calcsize("<HHH")
        room = -(start + smallest) % PAGE
        # Commons Compress reads the first number as the alignment.
        return struct.pack("<HHH", _PADDING_TAG, 2 + room, PAGE) + bytes(room)


class TgzWriter:
    """A .tar.gz with everything under ``<model name>/``."""

    def __init__(self, file: BinaryIO, model_name: str) -> None:
        self._stream = GzipStream(file)
        self._prefix = model_name

    def add(self, member: Member, chunks: Chunks) -> None:
        compress = storage_of(member.name, member.path) is Storage.DEFLATED
        self._write(member.name, member.size, chunks, DEFLATE if compress else STORE)

    def add_bytes(self, name: str, data: bytes) -> None:
        self._write(name, len(data), (data,), DEFLATE)

    def finish(self) -> None:
        self._stream.write(bytes(2 * tarfile.BLOCKSIZE))
        self._stream.finish()

    def _write(self, name: str, size: int, chunks: Chunks, level: int) -> None:
        info = tarfile.TarInfo(f"{self._prefix}/{name}")
        info.size = size
        info.mode = _MODE
        info.mtime = _DATE_SECONDS
        self._stream.set_level(level)
        self._stream.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict"))
        for chunk in chunks:
            self._stream.write(chunk)
        self._stream.write(bytes(-size % tarfile.BLOCKSIZE))


class FolderWriter:
    """A plain folder, as a server reads it without unpacking."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, member: Member, chunks: Chunks) -> None:
        path = self._folder / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
            if member.executable:  # a handler may start the programs it brings
                path.chmod(path.stat().st_mode | member.executable)

    def add_bytes(self, name: str, data: bytes) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
