"""A gzip file whose parts are compressed or stored, as each part deserves.

`writers` uses it for .tar.gz. One gzip member holds one deflate stream, and that may be made of
pieces from several compressors as long as each ends on a byte border (RFC 1951; pigz does the
same). Several gzip members would be simpler, but Java readers stop after the first.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO

# Magic, deflate, no name, time 0, no hints, unknown system: the same bytes on every machine.
_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"

STORE = 0
DEFLATE = 6


class GzipStream:
    """Writes one gzip member to ``file``."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._crc = 0
        self._size = 0
        self._level = DEFLATE
        self._compressor = _compressor(DEFLATE)
        file.write(_HEADER)

    def set_level(self, level: int) -> None:
        """Compress what follows at ``level``; STORE leaves it as it is."""
        if level != self._level:
            self._file.write(self._compressor.flush(zlib.Z_FULL_FLUSH))
            self._level = level
            self._compressor = _compressor(level)

    def write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        self._file.write(self._compressor.compress(data))

    def finish(self) -> None:
        """End the stream with its checksum; ``file`` stays open."""
        self._file.write(self._compressor.flush(zlib.Z_FINISH))
        self._file.write(struct.pack("<II", self._crc, self._size & 0xFFFFFFFF))


def _compressor(level: int) -> zlib._Compress:
    return zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
