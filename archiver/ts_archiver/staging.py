"""Makes an output appear whole or not at all: written under a temporary name, renamed at the end.

A folder that is there already keeps what it holds: the new files move into it one by one.
`packing` is the only caller. Whatever ends the block early, Ctrl-C included, leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from ts_archiver.errors import AlreadyExists, WriteFailed, reason
from ts_archiver.sources import MANIFEST_NAME


def check_target(target: Path, *, force: bool, folder: bool) -> None:
    """Refuse an output that is in the way.

    Raises:
        AlreadyExists: ``target`` exists, and not ``force``, or it is a folder where a file is to
            be or the other way round.
        WriteFailed: the export path is a file.
    """
    # os.path answers False where pathlib raises (no permission to look): writing will tell.
    if os.path.exists(target.parent) and not os.path.isdir(target.parent):
        raise WriteFailed(f"export path {target.parent} is not a folder. Give a folder.")
    if not os.path.lexists(target):
        return
    if not force:
        raise AlreadyExists(f"{target} already exists. Use --force to overwrite it.")
    if os.path.isdir(target) != folder:
        kind = "a file" if folder else "a folder"
        raise AlreadyExists(f"{target} is {kind}. Remove it, or choose another --export-path.")


@contextlib.contextmanager
def staged(
    target: Path, *, force: bool, folder: bool, warn: Callable[[str], None]
) -> Iterator[Path]:
    """The temporary path to write to, which becomes ``target`` when the block ends well.

    Raises:
        WriteFailed: the system refused; the message names ``target`` and why.
        AlreadyExists: see `check_target`; checked before the block and after it.
    """
    check_target(target, force=force, folder=folder)
    # Renaming onto a link would replace the link and leave what it leads to as it was.
    place = Path(os.path.realpath(target)) if target.is_symlink() else target
    # Inside a folder that is there already: it may be a file system of its own.
    parent = place if folder and place.is_dir() else place.parent
    temporary = parent / f".{place.name}.{secrets.token_hex(6)}.tmp"
    created: list[Path] = []
    try:
        _make_folder(parent, created, warn)
        yield temporary
        check_target(target, force=force, folder=folder)
        if place.is_dir():
            _merge(temporary, place)
        else:
            temporary.replace(place)
    except BaseException as error:
        _remove(temporary)
        for made in reversed(created):
            with contextlib.suppress(OSError):  # not empty: someone else uses it by now
                made.rmdir()
        if isinstance(error, OSError):
            raise WriteFailed(f"can't write {target}: {reason(error)}.") from error
        raise


def _make_folder(folder: Path, created: list[Path], warn: Callable[[str], None]) -> None:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if missing:
        warn(f"export path {folder} does not exist: creating it.")
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        created.append(path)


def _merge(new: Path, target: Path) -> None:
    """Move the files of ``new`` into ``target``, which keeps what else it holds: weights that were
    put there by hand, or sources.

    The manifest goes last: until then the folder passes for the old archive, and packing again
    finishes what was interrupted.
    """
    names = [path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()]
    names.sort(key=lambda name: (name == MANIFEST_NAME, name))
    for name in names:
        _check_place(target, name)
    for name in names:
        place = target / name
        place.parent.mkdir(parents=True, exist_ok=True)
        (new / name).replace(place)
    _remove(new)


def _check_place(target: Path, name: str) -> None:
    """Refuse before the first file moves what would fail half way."""
    place = target / name
    if place.is_dir() and not place.is_symlink():
        raise AlreadyExists(f"{place} is a folder and would become a file. Remove it.")
    above = place.parent
    while above != target:
        if os.path.lexists(above) and not above.is_dir():
            raise AlreadyExists(f"{above} is a file and would become a folder. Remove it.")
        above = above.parent


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
