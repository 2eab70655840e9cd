"""One unpacked archive as `archive_cache` keeps it: its files, and a record by which to see that
nobody has changed them.

In an entry's folder are ``files``, ``files.json`` (each with size, time of change, mode and hash)
and ``record.json``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FILES = "files"
RECORD = "record.json"
_LISTING = "files.json"
_FORMAT = 1

# Bytes; smaller files are copied, larger ones linked. A handler may well rewrite a small file of
# its model in place, and copies cost next to nothing.
LINK_FROM = 1 << 20


class Damaged(Exception):
    """An entry is not what was put there; the text says how."""


def content_key(folder: Path, hashes: Mapping[str, str]) -> str:
    """The name of an entry with these files: 32 hexadecimal digits."""
    content = json.dumps([_FORMAT, sorted(hashes.items()), _folders(folder)])
    return hashlib.sha256(content.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def record(entry: Path, hashes: Mapping[str, str]) -> None:
    """Write down what lies in ``files`` of an entry that nobody knows yet.

    Args:
        hashes: of each file, SHA-256.
    """
    files = [(name, *_stamp(entry / FILES / name), sha256) for name, sha256 in hashes.items()]
    listing = {"folders": _folders(entry / FILES), "files": files}
    (entry / _LISTING).write_text(json.dumps(listing))
    _write_record(entry, sum(size for _, size, *_ in files))


def size_of(entry: Path) -> int:
    """Bytes of an entry's files; 0 where it has no record."""
    with contextlib.suppress(Damaged):
        return int(_read(entry / RECORD)["bytes"])
    return 0


def place(entry: Path, root: Path) -> None:
    """Make ``root``, with an entry's files. Large ones are links: they take no time and no space,
    and models from one archive share their pages in memory.

    What the record says of size, time and mode is looked at each time. The hashes are computed when
    the machine was started anew since: what had not reached the disk by then may be lost.

    Raises:
        Damaged: ``root`` may be there in part.
        OSError: ``root`` can't be written.
    """
    found = _read(entry / RECORD)
    listing = _read(entry / _LISTING)
    boot = _boot()
    hashed = not boot or found.get("boot") != boot
    root.mkdir(mode=0o700)
    for name in listing["folders"]:
        (root / name).mkdir(mode=0o700)
    for name, size, changed, mode, sha256 in listing["files"]:
        source = entry / FILES / name
        try:
            if _stamp(source) != (size, changed, mode) or (hashed and _hash(source) != sha256):
                raise Damaged(f"{name} was changed")
        except OSError as error:
            raise Damaged(f"{name}: {error.strerror}") from error
        _put(source, root / name, size)
    if hashed:
        _write_record(entry, found["bytes"])


def _put(source: Path, target: Path, size: int) -> None:
    if size >= LINK_FROM:
        # Another file system, or one without links, or as many links as it can have.
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    with (
        source.open("rb") as file,
        open(target, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as copy,
    ):
        shutil.copyfileobj(file, copy, LINK_FROM)


def _stamp(path: Path) -> tuple[int, int, int]:
    """Not the inode's own time of change: each link sets it."""
    found = path.lstat()
    return found.st_size, found.st_mtime_ns, found.st_mode


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folders(files: Path) -> list[str]:
    return sorted(_walk(files), key=lambda name: (name.count("/"), name))


def _walk(files: Path) -> Iterator[str]:
    for place, folders, _ in os.walk(files):
        for name in folders:
            yield Path(place, name).relative_to(files).as_posix()


def _write_record(entry: Path, size: int) -> None:
    draft = entry / f"{RECORD}.{os.getpid()}"
    draft.write_text(json.dumps({"format": _FORMAT, "boot": _boot(), "bytes": size}))
    draft.replace(entry / RECORD)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise Damaged(f"{path.name} can't be read: {error}") from error
    if not isinstance(found, dict):
        raise Damaged(f"{path.name} is no JSON object")
    return found


def _boot() -> str:
    """Tells one run of the machine from another; empty where the system does not say."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
