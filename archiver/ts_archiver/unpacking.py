"""Unpacks archives safely and reads their manifests.

The server's store and users of the Python API call `extract` and `read_manifest`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from ts_archiver import manifest
from ts_archiver.entries import Entry, Limits, safe_name
from ts_archiver.errors import (
    CorruptArchive,
    ExtractFailed,
    ManifestError,
    ReadError,
    UnsafeArchive,
    reason,
)
from ts_archiver.hashing import Hasher
from ts_archiver.manifest import MAX_MANIFEST_BYTES, Manifest
from ts_archiver.reading import open_archive
from ts_archiver.recipe import StrPath
from ts_archiver.sources import MANIFEST_NAME

_DEFAULT_LIMITS = Limits()


def extract(
    archive: StrPath, target: StrPath, *, limits: Limits = _DEFAULT_LIMITS, verify: bool = False
) -> Manifest:
    """Unpack a .mar, .tar.gz or archive folder into ``target`` and return its manifest.

    Always checked: every zip entry's CRC-32 (for stored files in the copy on disk), gzip's CRC-32
    of the whole stream, all sizes and names. With ``verify`` the SHA-256 hashes of the manifest
    too, where it holds some. Files get mode 0600 and folders 0700. An archive without a manifest
    gives TorchServe's default, an empty model for Python.

    Args:
        target: a folder that does not exist yet or is empty.

    Raises:
        ReadError: cause and cure in one line; ``target`` is gone then, and nothing outside it
            was ever written.
    """
    return _extract(archive, target, limits, _verify if verify else None)


def extract_hashed(
    archive: StrPath, target: StrPath, *, limits: Limits = _DEFAULT_LIMITS
) -> tuple[Manifest, dict[str, str]]:
    """`extract` that also returns the SHA-256 hash of each file, computed on the way."""
    hashes: dict[str, str] = {}
    found = _extract(archive, target, limits, lambda _manifest, all, _origin: hashes.update(all))
    return found, hashes


# Given the manifest, each file's hash, and what to call the archive.
_Check = Callable[[Manifest, dict[str, str], str], object]


def _extract(archive: StrPath, target: StrPath, limits: Limits, check: _Check | None) -> Manifest:
    source, folder = Path(archive), Path(target)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise ExtractFailed(f"{folder} is not empty. Give a new folder.")
        folder.chmod(0o700)
    except OSError as error:
        raise ExtractFailed(f"can't unpack to {folder}: {reason(error)}.") from error
    try:
        with open_archive(source, limits) as entries, Hasher() as hasher:
            unpacker = _Unpacker(folder, str(source), None if check is None else hasher)
            _unpack(entries, unpacker)
        found = _read_folder(folder, str(source))
        if check is not None:
            check(found, unpacker.hashes, str(source))
        return found
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExtractFailed(f"can't unpack {source} to {folder}: {reason(error)}.") from error
        raise


def read_manifest(archive: StrPath, *, limits: Limits = _DEFAULT_LIMITS) -> Manifest:
    """The manifest of a .mar, .tar.gz or archive folder, without unpacking the rest.

    Raises:
        ReadError: no archive, a broken one, or a manifest that is no JSON object.
    """
    path = Path(archive)
    if path.is_dir():
        return _read_folder(path, str(path))
    text = None
    with open_archive(path, limits) as entries:
        for entry in entries:
            # Repackaging with zip or tar appends: of several manifests the last one counts.
            if entry.name == MANIFEST_NAME:
                text = manifest_text(entry, str(path))
    return manifest.absent() if text is None else manifest.parse(text, str(path))


def manifest_text(entry: Entry, origin: str) -> bytes:
    """The bytes of a manifest's entry, unless they are far too many."""
    if entry.size > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{origin}: {MANIFEST_NAME} has {entry.size} bytes. Don't use it.")
    return b"".join(entry.chunks())


def listed_hashes(found: Manifest) -> dict[str, str]:
    """File names and SHA-256 hashes that a manifest lists; none for TorchServe's own archives."""
    files = found.get("files")
    if not isinstance(files, dict):
        return {}
    return {
        str(name): value["sha256"].lower()
        for name, value in files.items()
        if isinstance(value, dict) and isinstance(value.get("sha256"), str)
    }


def _read_folder(folder: Path, origin: str) -> Manifest:
    try:
        path = folder / MANIFEST_NAME
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"{origin}: {MANIFEST_NAME} is far too long. Don't use it.")
        return manifest.parse(path.read_bytes(), origin)
    except FileNotFoundError:
        return manifest.absent()
    except OSError as error:
        raise ReadError(f"can't read {folder / MANIFEST_NAME}: {reason(error)}.") from error


def _verify(found: Manifest, hashes: dict[str, str], origin: str) -> None:
    for name, expected in listed_hashes(found).items():
        if hashes.get(safe_name(name, origin)) != expected:
            raise CorruptArchive(
                f"{origin}: {name} is not what the manifest lists. Package the model again."
            )


def _ignored(_chunk: bytes) -> None:
    pass


def _unpack(entries: Iterator[Entry], unpacker: _Unpacker) -> None:
    for entry in entries:
        if entry.is_folder:
            unpacker.make_folder(PurePosixPath(entry.name))
        else:
            unpacker.write(entry)


class _Unpacker:
    """Writes entries below a folder that it filled alone, so that no name can lead elsewhere."""

    def __init__(self, target: Path, origin: str, hasher: Hasher | None) -> None:
        self.hashes: dict[str, str] = {}  # empty without a hasher
        self._target = target
        self._origin = origin
        self._hasher = hasher
        self._folders = {PurePosixPath()}
        self._files: set[PurePosixPath] = set()

    def make_folder(self, folder: PurePosixPath) -> None:
        if folder in self._folders:
            return
        self.make_folder(folder.parent)
        with self._unique(folder):
            (self._target / folder).mkdir(mode=0o700)
        self._folders.add(folder)

    def write(self, entry: Entry) -> None:
        name = PurePosixPath(entry.name)
        if name in self._files:
            if entry.name != MANIFEST_NAME:
                self._check_same(entry, self._target / name)
                return
            (self._target / name).unlink()  # as in TorchServe the last manifest counts
        if name in self._folders:
            raise UnsafeArchive(f"{self._origin}: {name} is a file and a folder. Package it again.")
        self.make_folder(name.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
        with self._unique(name):
            fd = os.open(self._target / name, flags, 0o600)
        try:
            if self._hasher is None:
                entry.copy_to(fd, _ignored)
            else:
                entry.copy_to(fd, self._hasher.update)
                self.hashes[str(name)] = self._hasher.finish()
        finally:
            os.close(fd)
        self._files.add(name)

    @contextlib.contextmanager
    def _unique(self, name: PurePosixPath) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, NotADirectoryError) as error:
            raise UnsafeArchive(
                f"{self._origin}: {name} collides with another entry. Package it again."
            ) from error

    def _check_same(self, entry: Entry, path: Path) -> None:
        """The same file twice is harmless; with two contents, readers would disagree."""
        with path.open("rb") as file:
            same = all(chunk == file.read(len(chunk)) for chunk in entry.chunks())
            if not same or file.read(1):
                raise UnsafeArchive(
                    f"{self._origin} holds {entry.name} twice, with different contents. Package "
                    "it again."
                )
