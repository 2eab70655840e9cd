"""Where `torch.compile` keeps what it made of a model: one folder for each model's files, shared by
its workers and kept between starts.

`registration` puts it into the environment of workers whose yaml asks for `pt2`. Inductor and
Triton read these variables when they compile, so a forked worker heeds them as well. They know by
themselves, from the graph, torch and the device, which of what they find there fits.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ts_frontend.core.archive import Archive
from ts_frontend.core.env_cache import default_folder

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

INDUCTOR = "TORCHINDUCTOR_CACHE_DIR"
TRITON = "TRITON_CACHE_DIR"

_READ_WHOLE = 1 << 20  # bytes; of larger files, which are weights, the size has to do
_KEPT_SECONDS = 30 * 24 * 3600.0


def compile_environment(
    config: Config, environ: Mapping[str, str], archive: Archive, env: Mapping[str, str]
) -> dict[str, str]:
    """The variables to add to ``env`` of a model that is compiled; none where a variable says
    already where its caches are. Reads the model's files: not for the loop.

    Args:
        environ: the server's, which has the place of caches.
        env: the worker's.
    """
    if INDUCTOR in env:
        return {}
    root = config.compile_cache or default_folder(environ, config.temp_dir, "compiled")
    folder = root.absolute() / _key(archive)
    try:
        _make(folder)
        os.utime(folder)
        _prune(folder.parent)
    except OSError as error:
        logger.warning(
            "What torch.compile makes is not kept: %s: %s; set compile_cache to a folder",
            error.filename or folder,
            error.strerror or error,
        )
        return {}
    triton = {} if TRITON in env else {TRITON: str(folder / "triton")}
    return {INDUCTOR: str(folder), **triton}


def _make(folder: Path) -> None:
    """Raises OSError, also where somebody else might put code there that our workers would run."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    folder.mkdir(exist_ok=True, mode=0o700)
    if hasattr(os, "getuid"):
        for path in (folder.parent, folder):
            found = path.stat()
            if found.st_uid not in (os.getuid(), 0) or found.st_mode & stat.S_IWOTH:
                raise PermissionError(0, "others may write to it", str(path))


def _key(archive: Archive) -> str:
    """A hash of the model's files; for a folder that is used in place, whose files come and go
    while somebody works on them, of its path."""
    digest = hashlib.sha256()
    if archive.source is not None and archive.source.is_dir():
        digest.update(os.fsencode(archive.source.resolve()))
    else:
        for path in sorted(_files(archive.model_dir)):
            name, size = path.relative_to(archive.model_dir).as_posix(), path.stat().st_size
            content = path.read_bytes() if size <= _READ_WHOLE else b""
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:32]


def _files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        # The manifest has the time of packaging; bytecode comes with the first load.
        if path.is_file() and not {"MAR-INF", "__pycache__"} & set(path.relative_to(folder).parts):
            yield path


def _prune(root: Path) -> None:
    """Remove what no start has used for a month. Who compiles meanwhile makes it anew."""
    with contextlib.suppress(OSError):
        for folder in list(root.iterdir()):
            if time.time() - folder.stat().st_mtime > _KEPT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
