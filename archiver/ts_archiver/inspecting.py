"""Looks into an archive without unpacking it: manifest, files, sizes, and whether hashes fit.

`archiver inspect` and users of the Python API call `inspect`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from ts_archiver import manifest
from ts_archiver.entries import Entry, Limits
from ts_archiver.errors import ReadError, UnsafeArchive, reason
from ts_archiver.manifest import Manifest
from ts_archiver.reading import open_archive
from ts_archiver.recipe import StrPath
from ts_archiver.sources import MANIFEST_NAME
from ts_archiver.unpacking import listed_hashes, manifest_text

_DEFAULT_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class FileReport:
    """One file: bytes unpacked, how it is stored, its hash, and the one the manifest lists."""

    name: str
    size: int
    storage: str
    sha256: str
    listed_sha256: str | None = None

    @property
    def verdict(self) -> str:
        """ "ok", "CHANGED", or "unlisted" where the manifest has no hash for it."""
        if self.listed_sha256 is None:
            return "unlisted"
        return "ok" if self.sha256 == self.listed_sha256 else "CHANGED"


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an archive holds. ``missing`` are files that the manifest lists and it has not."""

    manifest: Manifest
    files: tuple[FileReport, ...]
    missing: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each file that is not what the manifest lists."""
        listed = any(file.listed_sha256 is not None for file in self.files)
        return (
            *(f"{name} is missing" for name in self.missing),
            *(f"{file.name} was changed" for file in self.files if file.verdict == "CHANGED"),
            *(
                f"{file.name} was added"
                for file in self.files
                if listed and file.verdict == "unlisted"
            ),
        )


def inspect(archive: StrPath, *, limits: Limits = _DEFAULT_LIMITS) -> Inspection:
    """Read all of an archive and compare it with its manifest.

    Archives of torch-model-archiver list no hashes; their files are "unlisted" and no problem.

    Raises:
        ReadError: it can't be read to its end; a checksum inside it does not fit.
    """
    path = Path(archive)
    text = None
    seen: dict[str, FileReport] = {}
    try:
        with open_archive(path, limits) as entries:
            for entry in entries:
                if entry.name == MANIFEST_NAME:
                    text = manifest_text(entry, str(path))  # of several the last one counts
                elif not entry.is_folder:
                    _add(
                        seen, FileReport(entry.name, entry.size, entry.storage, _hash(entry)), path
                    )
    except OSError as error:
        raise ReadError(f"can't read {path}: {reason(error)}.") from error
    found = manifest.absent() if text is None else manifest.parse(text, str(path))
    listed = listed_hashes(found)
    files = tuple(replace(seen[name], listed_sha256=listed.get(name)) for name in sorted(seen))
    return Inspection(found, files, tuple(sorted(listed.keys() - seen.keys())))


def _hash(entry: Entry) -> str:
    digest = hashlib.sha256()
    for chunk in entry.chunks():
        digest.update(chunk)
    return digest.hexdigest()


def _add(seen: dict[str, FileReport], report: FileReport, path: Path) -> None:
    if seen.setdefault(report.name, report) != report:
        raise UnsafeArchive(
            f"{path} holds {report.name} twice, with different contents. Package it again."
        )
