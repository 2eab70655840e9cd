"""Finds the files of a recipe and the name each has in the archive.

`packing` calls `collect`; the rules for extra files are torch-model-archiver's, except that two
different files never share a name unnoticed.
"""

from __future__ import annotations

import difflib
import errno
import filecmp
import glob
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ts_archiver.errors import Collision, MissingInput, reason
from ts_archiver.recipe import BUILTIN_HANDLERS, Recipe

Warn = Callable[[str], None]

MANIFEST_NAME = "MAR-INF/MANIFEST.json"
WARMUP = "warmup"  # where workers look for sample requests


@dataclass(frozen=True, slots=True)
class Member:
    """One file to package: its name in the archive, where it is, bytes, seconds since 1970.

    ``executable`` has the bits of its mode that let it be run.
    """

    name: str
    path: Path
    size: int
    modified: float
    executable: int = 0


def collect(recipe: Recipe, warn: Warn) -> list[Member]:
    """All files of ``recipe``, sorted by name, each name once.

    Raises:
        MissingInput: a file is missing, unreadable, or no plain file.
        Collision: two different files want the same name, and not ``recipe.last_wins``.
    """
    chosen: dict[str, Member] = {}
    for name, path in _named(recipe, warn):
        if name == MANIFEST_NAME:
            warn(f"{path} is left out: the archive gets a new manifest.")
        elif _same_file(path, recipe.target):
            warn(f"{path} is left out: it is the archive being replaced.")
        else:
            choose(chosen, file_member(name, path), recipe.last_wins, warn)
    _check_folders(chosen)
    return [chosen[name] for name in sorted(chosen)]


def _check_handler(recipe: Recipe) -> None:
    """A bare word that is neither file nor built-in handler was probably meant as the latter."""
    name = os.fspath(recipe.handler)
    if name in BUILTIN_HANDLERS or not name.isidentifier() or recipe.runtime == "LSP":
        return
    if os.path.lexists(f"{name}.py"):
        return
    close = difflib.get_close_matches(name, BUILTIN_HANDLERS, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise MissingInput(
        f"file {name}.py does not exist, and no built-in handler is called {name}.{hint} "
        f"Built-in are {', '.join(sorted(BUILTIN_HANDLERS))}."
    )


def _named(recipe: Recipe, warn: Warn) -> Iterator[tuple[str, Path]]:
    """Names and files in TorchServe's order, which decides who is the later one."""
    _check_handler(recipe)
    for path in (recipe.model_file, recipe.serialized_file, recipe.handler_file()):
        if path:
            yield os.path.basename(path), Path(path)
    for element in _extra_elements(recipe):
        yield from _extra(element, recipe.keep_tree, warn)
    if recipe.warmup:
        yield from _samples(Path(recipe.warmup), warn)
    for path in (recipe.requirements_file, recipe.config_file):
        if path:
            yield os.path.basename(path), Path(path)


def _extra_elements(recipe: Recipe) -> Iterator[str]:
    if recipe.extra_files is None:
        return
    if isinstance(recipe.extra_files, os.PathLike):
        yield os.fspath(recipe.extra_files)
    elif isinstance(recipe.extra_files, str):
        for part in recipe.extra_files.split(","):
            element = part if os.path.exists(part) else part.strip()
            if element:
                yield element
    else:
        yield from (os.fspath(path) for path in recipe.extra_files)


def _extra(element: str, keep_tree: bool, warn: Warn) -> Iterator[tuple[str, Path]]:
    is_pattern = "*" in element or "?" in element or ("[" in element and "]" in element)
    if is_pattern and not os.path.lexists(element):
        matches = sorted(glob.glob(element))
        if not matches:
            warn(f"no file matches the pattern {element}.")
    else:
        matches = [element]
    for match in matches:
        path = Path(match)
        if os.path.isdir(path):
            root = PurePosixPath(path.resolve().name if keep_tree else "")
            yield from _walk(path, root, (path.resolve(),), warn)
        else:
            yield path.name, path


def _samples(folder: Path, warn: Warn) -> Iterator[tuple[str, Path]]:
    """The sample requests of a folder, which lie side by side in it.

    Raises:
        MissingInput: there are none, or a folder is among them, which workers refuse.
    """
    if not folder.is_dir():
        cause = "is no folder" if folder.exists() else "does not exist"
        raise MissingInput(f"{folder} {cause}. --warmup needs a folder of sample requests.")
    found = list(_walk(folder, PurePosixPath(WARMUP), (folder.resolve(),), warn))
    samples = [(name, path) for name, path in found if not path.name.startswith(".")]
    if not samples:
        raise MissingInput(f"{folder} holds no sample requests. Put one in, or drop --warmup.")
    for name, path in samples:
        if name.count("/") > 1:
            raise MissingInput(f"{path} lies in a folder of {folder}. Put samples side by side.")
    yield from samples


def _walk(
    folder: Path, prefix: PurePosixPath, above: tuple[Path, ...], warn: Warn
) -> Iterator[tuple[str, Path]]:
    """The files below ``folder``. Links are followed, as TorchServe's tool does; ``above`` holds
    the folders on the way down, so that a link to one of them ends."""
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise MissingInput(f"can't read the folder {folder}: {reason(error)}.") from error
    for entry in entries:
        if not os.path.isdir(entry):
            # Nobody asked for this one by name: a stray link need not cost the whole archive.
            if cause := _oddity(entry):
                warn(f"{entry} is left out: it {cause}.")
            else:
                yield str(prefix / entry.name), entry
        elif not _skipped(entry.name):
            real = entry.resolve()
            if real in above:
                raise MissingInput(f"{entry} links to a folder above it. Remove the link.")
            yield from _walk(entry, prefix / entry.name, (*above, real), warn)


def _oddity(path: Path) -> str | None:
    """Why ``path`` can't be packaged, whoever may try."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "links to a missing file"
    except OSError as error:
        # Other errors may be mended, so `file_member` refuses the file.
        return "links to itself" if error.errno == errno.ELOOP else None
    return None if stat.S_ISREG(mode) else "is no plain file"


def _skipped(folder: str) -> bool:
    return folder.startswith(".") or folder in ("__pycache__", "__MACOSX")


def file_member(name: str, path: Path) -> Member:
    """The file at ``path``, to be stored under ``name``.

    Raises:
        MissingInput: it is missing, unreadable, or no plain file.
    """
    try:
        found = path.stat()
        name.encode()
    except FileNotFoundError as error:
        cause = "links to a missing file" if path.is_symlink() else "does not exist"
        raise MissingInput(f"file {path} {cause}. Check the path.") from error
    except OSError as error:
        raise MissingInput(f"can't read {path}: {reason(error)}.") from error
    except UnicodeEncodeError as error:
        raise MissingInput(f"the name {os.fsencode(path)!r} is not UTF-8. Rename it.") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "no plain file"
        raise MissingInput(f"{path} is {kind}. Give a plain file.")
    if not os.access(path, os.R_OK):
        raise MissingInput(f"no permission to read {path}.")
    return Member(name, path, found.st_size, found.st_mtime, found.st_mode & 0o111)


def choose(chosen: dict[str, Member], new: Member, last_wins: bool, warn: Warn) -> None:
    """Add ``new`` to the files by name, unless the same file is there.

    Raises:
        Collision: another file has the name, and not ``last_wins``.
    """
    old = chosen.get(new.name)
    if old is None:
        chosen[new.name] = new
    elif not (_same_file(old.path, new.path) or filecmp.cmp(old.path, new.path, shallow=False)):
        if not last_wins:
            raise Collision(
                f"{old.path} and {new.path} differ, and both would be stored as {new.name}. "
                "Rename one, or let the later one win with --last-wins."
            )
        warn(f"{new.path} replaces {old.path} as {new.name}.")
        chosen[new.name] = new


def _check_folders(chosen: dict[str, Member]) -> None:
    for member in chosen.values():
        for folder in PurePosixPath(member.name).parents:
            if str(folder) in chosen or str(folder) == MANIFEST_NAME:
                raise Collision(
                    f"{folder} would be a file and a folder in the archive (for {member.path}). "
                    "Rename one."
                )
    if "MAR-INF" in chosen:
        raise Collision(f"{chosen['MAR-INF'].path} takes the manifest's folder name. Rename it.")


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False
