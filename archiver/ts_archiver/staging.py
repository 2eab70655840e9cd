"""Makes an output appear whole or not at all: a temporary sibling, renamed at the end.

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

_MANIFEST = Path("MAR-INF") / "MANIFEST.json"


def check_target(target: Path, *, force: bool, folder: bool) -> None:
    """Refuse an output that is in the way.

    Raises:
        AlreadyExists: ``target`` exists and may not be replaced. A folder is replaced only by a
            folder, and only if it holds a manifest: it might be the user's sources.
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
    if folder and not os.path.isfile(target / _MANIFEST):
        raise AlreadyExists(
            f"{target} is a folder without {_MANIFEST}, so --force leaves it alone. Remove it, or "
            "choose another --export-path."
        )


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
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(6)}.tmp")
    created: list[Path] = []
    try:
        _make_folder(target.parent, created, warn)
        yield temporary
        check_target(target, force=force, folder=folder)
        _publish(temporary, target)
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


def _publish(temporary: Path, target: Path) -> None:
    if not target.is_dir() or not temporary.is_dir():
        temporary.replace(target)
        return
    # No call replaces a full folder in one step on every system: move the old one away first.
    old = temporary.with_suffix(".old")
    target.rename(old)
    try:
        temporary.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
