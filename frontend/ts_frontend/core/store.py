"""Finds, downloads and unpacks archives into folders that workers load from.

`registration` fetches, `management` discards. The only room that reads archives.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from ts_archiver import (
    ArchiveError,
    ExtractFailed,
    Limits,
    ManifestError,
    extract,
    read_manifest,
)
from ts_frontend.core import part_file
from ts_frontend.core.archive import Archive
from ts_frontend.core.archive_cache import open_archive_cache
from ts_frontend.core.own_folder import OwnFolder
from ts_frontend.core.own_thread import in_own_thread
from ts_frontend.errors import DownloadFailed, Internal, InvalidModel, ModelNotFound
from ts_frontend.urls import shown

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

T = TypeVar("T")

ARCHIVE_ENDINGS = (".mar", ".model", ".tar.gz")
# Only the end of the server cancels; what is still made then the next one removes.
CANCEL_SECONDS = 5.0
_BAD_MANIFEST = "Failed to parse signature.json."  # TorchServe's name for the manifest


class Store:
    """The model store folder and the folder for unpacked models.

    Args:
        cores: usable ones; so many archives are unpacked at the same time, but two at least.
    """

    def __init__(self, config: Config, *, cores: int = 2) -> None:
        self._unpacking = asyncio.Semaphore(max(2, cores))
        self._folder = config.model_store
        self._own = OwnFolder(config.temp_dir / "models")
        self._cache = open_archive_cache(config)
        self._allowed = [re.compile(pattern, re.IGNORECASE) for pattern in config.allowed_urls]
        self._limits = Limits(
            max_total_bytes=config.archive_max_bytes, max_ratio=config.archive_max_ratio
        )
        self._max_bytes = config.archive_max_bytes
        # How many archives come from a file, and files that were downloaded for one which has gone
        # while others still come from there.
        self._users: Counter[Path] = Counter()
        self._left: set[Path] = set()

    def entries(self) -> list[str]:
        """What ``load_models=all`` means: archives and folders of the store, sorted by name.

        Raises:
            OSError: the store can't be read.
        """
        if self._folder is None:
            return []
        return sorted(
            entry.name
            for entry in self._folder.iterdir()
            if not entry.name.startswith(".")
            and (entry.is_dir() or entry.name.endswith(ARCHIVE_ENDINGS))
        )

    async def fetch(self, url: str, *, s3_sse_kms: bool = False) -> Archive:
        """Make a model's files available.

        A URL that matches ``allowed_urls`` is downloaded into the store; else the last part of
        ``url`` is looked for in the store, and ``url`` as a folder anywhere. Cancelling leaves
        nothing behind.

        Raises:
            ModelNotFound: no store, nothing there, or the URL is not allowed.
            Internal: the file exists already, or can't be unpacked.
            DownloadFailed, InvalidModel: see their texts.
        """
        folder = self._check(url)
        downloaded: Path | None = None
        if _is_url(url):
            self._check_allowed(url)
            downloaded = await self._download(url, folder, s3_sse_kms)
            source = downloaded
        else:
            source = await _in_thread(lambda: _locate(url, folder))
        self._users[source] += 1
        try:
            root = self._own.enter()
        except OSError as error:
            useless = self._leave(source, downloaded)
            await _in_thread(lambda: _remove(None, useless))
            raise _unusable(url, error) from error
        try:
            async with self._unpacking:
                model_dir, manifest = await _in_thread(lambda: self._unpack(source, root, url))
                size = await _in_thread(lambda: _size(model_dir))
        except BaseException:
            useless = self._leave(source, downloaded)
            await _in_thread(lambda: self._delete(root, useless))
            raise
        return Archive(url, model_dir, root, manifest, downloaded, source, size)

    async def discard(self, archive: Archive) -> None:
        """Delete what `fetch` made: never a user's own folder or local archive, and a downloaded
        one with the last that comes from it."""
        useless = self._leave(archive.source, archive.downloaded)
        await _in_thread(lambda: self._delete(archive.root, useless))

    async def release(self, archive: Archive) -> None:
        """Delete the unpacked files only: the server ends, a downloaded archive stays."""
        await _in_thread(lambda: self._delete(archive.root, None))

    async def clear_stale(self) -> None:
        """Delete what killed servers left, at start."""
        await _in_thread(self._own.clear_stale)
        if self._cache is not None:
            await _in_thread(self._cache.clear_stale)
        folder = self._folder
        if folder is not None:
            await _in_thread(lambda: part_file.clear_stale(folder))

    def _leave(self, source: Path | None, downloaded: Path | None) -> Path | None:
        """One archive less comes from a file; returns the file if it is to be deleted."""
        if source is None:
            return downloaded
        if downloaded is not None:
            self._left.add(source)
        self._users[source] -= 1
        if self._users[source] > 0:
            return None
        del self._users[source]
        if source not in self._left:
            return None
        self._left.discard(source)
        return source

    def _delete(self, root: Path, downloaded: Path | None) -> None:
        _remove(root, downloaded)
        self._own.leave(root)
        if self._cache is not None:
            self._cache.release(root)
            self._cache.prune()

    def _check(self, url: str) -> Path:
        if self._folder is None:
            raise ModelNotFound("Model store has not been configured.")
        if not url:
            raise ModelNotFound("empty url")
        _check_absolute(url)
        return self._folder

    def _check_allowed(self, url: str) -> None:
        _check_absolute(url)  # a redirect comes here only
        if not any(pattern.fullmatch(url) for pattern in self._allowed):
            raise ModelNotFound(f"Given URL {url} does not match any allowed URL(s)")

    async def _download(self, url: str, folder: Path, signed: bool) -> Path:
        try:
            name = Path(unquote(urlsplit(url).path)).name
        except ValueError as error:  # such as http://[x/
            raise DownloadFailed(f"Failed to download archive from: {url}\n{error}") from error
        if not name or name.startswith(".") or "\0" in name:
            raise ModelNotFound(f"Model not found at: {url}")
        if "@" in urlsplit(url).netloc:
            raise DownloadFailed(
                f"Failed to download archive from: {url}\n"
                "its host has a user or password before it, which is not sent: "
                "leave that out, or use a presigned URL"
            )
        target = folder / name
        try:
            if target.exists():
                raise Internal(f"Model file already exists {name}")
        except OSError as error:
            raise _unusable(url, error) from error
        from ts_frontend.core.download import Download  # http.client and urllib.request: late

        download = Download(url, target, self._check_allowed, self._max_bytes, signed=signed)
        await download.run()
        return target

    def _unpack(self, source: Path, root: Path, url: str) -> tuple[Path, Mapping[str, Any]]:
        try:
            if source.is_dir():
                return _link(source, root)
            return root, self._extract(source, root)
        except ManifestError as error:
            raise InvalidModel(f"{_BAD_MANIFEST} {error}") from error
        except ArchiveError as error:
            raise Internal(f"Failed to save model: {url}\n{error}") from error
        except OSError as error:
            raise _unusable(url, error) from error

    def _extract(self, source: Path, root: Path) -> Mapping[str, Any]:
        if self._cache is not None:
            try:
                return self._cache.take(source, root, self._limits)
            except (OSError, ExtractFailed) as error:
                logger.warning(
                    "%s is unpacked for this start only, as archive_cache can't be used: %s",
                    source.name,
                    error,
                )
                self._cache.prune(0)  # the disk may be full
        return extract(source, root, limits=self._limits)


def default_name(url: str) -> str:
    """The name of a model whose manifest and registration give none, as TorchServe makes it."""
    # Not parsed as a URL, which it may not be: it names what could not be loaded, too.
    path = shown(url).partition("://")[2] if _is_url(url) else url
    name = Path(path).name
    if ".mar" in name or ".model" in name:
        name = name[: name.rindex(".")]
    return re.sub(r"\W|^_", "_", name, flags=re.ASCII)


def _is_url(url: str) -> bool:
    return url.lower().startswith(("http://", "https://", "s3://", "file://"))


def _check_absolute(url: str) -> None:
    # An escaped ".." is one too for whoever opens the URL, and leads past `allowed_urls`.
    if ".." in url or ".." in unquote(url):
        raise ModelNotFound(f"Relative path is not allowed in url: {url}")


def _locate(url: str, folder: Path) -> Path:
    name = Path(url).name
    inside = folder / name
    try:
        if name and inside.is_file():
            return inside
        for place in (Path(url), inside):
            if name and place.is_dir():
                return place
        hint = _hint(Path(url), folder)
    except OSError as error:  # a store that can't be read, a name too long to be one
        raise _unusable(url, error) from error
    raise ModelNotFound(f"Model not found at: {url}{hint}")


def _hint(path: Path, folder: Path) -> str:
    """A second line for who left out the ending, or names a file outside the store."""
    for ending in ARCHIVE_ENDINGS if path.name else ():
        if (folder / (path.name + ending)).is_file():
            return f"\nlooked in {folder}, did you mean {path.name}{ending}?"
    if path.is_absolute() and path.name.endswith(ARCHIVE_ENDINGS) and path.is_file():
        return (
            f"\nlooked in {folder}: archives are taken from the model store only. "
            f"Put the file there and name it {path.name}"
        )
    return ""


def _unusable(url: str, error: OSError) -> Internal:
    reason = error.strerror or str(error)
    return Internal(f"Failed to save model: {url}\n{reason}: {error.filename}")


def _link(source: Path, root: Path) -> tuple[Path, Mapping[str, Any]]:
    """Use a folder in place. One that holds just a folder is entered: SageMaker packs so."""
    source = source.resolve()
    entries = list(source.iterdir())
    if len(entries) == 1 and entries[0].is_dir():
        source = entries[0].resolve()
    manifest = read_manifest(source)
    root.mkdir(parents=True)
    link = root / source.name
    link.symlink_to(source, target_is_directory=True)
    return link, manifest


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, as far as they can be looked at."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(place, name)).st_size
    return total


def _remove(root: Path | None, downloaded: Path | None) -> None:
    if root is not None and root.exists():
        # Links inside are removed, never followed.
        shutil.rmtree(root, onerror=_report)
    if downloaded is not None:
        with contextlib.suppress(FileNotFoundError):
            downloaded.unlink()


def _report(_function: object, path: str, _info: object) -> None:
    logger.warning("Could not delete %s", path)


async def _in_thread(work: Callable[[], T]) -> T:
    """Run work that blocks as long as the disk takes. A thread can't be cancelled, so cancelling
    waits for its end: nothing it makes shall appear after the clean-up."""
    running = in_own_thread(work, "store")
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=CANCEL_SECONDS)
        if not running.cancel():
            running.exception()
        raise
