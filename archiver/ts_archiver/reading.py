"""Opens an archive of any kind, and says in plain words what a file is that is none.

`unpacking` and `inspecting` call `open_archive`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from ts_archiver.entries import Entry, Limits
from ts_archiver.errors import CorruptArchive, NotAnArchive, ReadError, reason
from ts_archiver.folderarchive import open_folder
from ts_archiver.tararchive import open_tar
from ts_archiver.ziparchive import directory, open_zip

_ZIP = b"PK\x03\x04"
_EMPTY_ZIP = b"PK\x05\x06"
_GZIP = b"\x1f\x8b"
_GZIP_END = 8  # bytes: CRC-32 and size of what was compressed
_TAR = (257, b"ustar")


@contextlib.contextmanager
def open_archive(path: Path, limits: Limits) -> Iterator[Iterator[Entry]]:
    """The entries of a .mar, .tar.gz or folder.

    As in TorchServe a ``.mar`` is a zip. Of other names the content decides.

    Raises:
        ReadError: the message names the file, the cause and the cure.
    """
    with contextlib.ExitStack() as stack:
        try:
            if path.is_dir():
                entries: Iterator[Entry] = stack.enter_context(open_folder(path))
            else:
                entries = stack.enter_context(_open_file(path, limits))
        except OSError as error:
            raise ReadError(f"can't read {path}: {reason(error)}.") from error
        yield entries


def fingerprint(path: Path) -> str:
    """A hash by which to know an archive's file again, without reading much of it.

    Of where the file lies and when it was changed (device, inode, size, both times), and of what
    stands for its contents: a zip's directory with all CRC-32s, or gzip's checksum. Its files are
    not read, nor is anything checked.

    Raises:
        ReadError: it can't be read, or its end is no zip's.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) in (_ZIP, _EMPTY_ZIP):
                outline = directory(file, str(path))
            else:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _GZIP_END))
                outline = file.read()
            found = os.fstat(file.fileno())
    except OSError as error:
        raise ReadError(f"can't read {path}: {reason(error)}.") from error
    place = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return hashlib.sha256(repr(place).encode() + outline).hexdigest()


def _open_file(path: Path, limits: Limits) -> contextlib.AbstractContextManager[Iterator[Entry]]:
    with path.open("rb") as file:
        head = file.read(512)
    if head.startswith((_ZIP, _EMPTY_ZIP)):
        if not zipfile.is_zipfile(path):
            raise CorruptArchive(
                f"{path} is cut short: it starts as a zip, but the directory at its end is "
                "missing. Copy it again from its source."
            )
        return open_zip(path, limits)
    if head.startswith(_GZIP) and path.suffix != ".mar":
        return open_tar(path, limits)
    raise NotAnArchive(f"{path} is no model archive but {_describe(head)}")


def _describe(head: bytes) -> str:
    """What a file is by its first bytes, and what to do about it."""
    text = head.lstrip().lower()
    if not head:
        return "empty. Copy it again from its source."
    if head.startswith(_GZIP):
        return "a gzip file. A model packaged as tgz must be named .tar.gz."
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer. Fetch the file itself with `git lfs pull`."
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page. Check the address that it was downloaded from."
    if text.startswith(b"<?xml"):
        return "an XML text, such as a storage service's error. Check where it came from."
    if head[_TAR[0] :].startswith(_TAR[1]):
        return "a tar file without gzip. Compress it with gzip and name it .tar.gz."
    if head.startswith(b"\x80"):
        return "a pickle, such as weights of torch.save. Package it with the archiver."
    return f"something that starts with {head[:8]!r}. Package the model with the archiver."
