"""Packages a model: checks the request, finds the files, writes the archive.

`cli` and users of the Python API call `pack`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from ts_archiver import manifest
from ts_archiver.errors import MissingInput, reason
from ts_archiver.hashing import Hasher
from ts_archiver.recipe import Recipe, StrPath
from ts_archiver.sources import MANIFEST_NAME, Member, Warn, collect
from ts_archiver.staging import check_target, staged
from ts_archiver.writers import open_writer

logger = logging.getLogger(__name__)

# Called with all bytes to come; gives a context whose function is told of each chunk's bytes.
Progress = Callable[[int], AbstractContextManager[Callable[[int], object]]]

_CHUNK = 1 << 20


def pack(
    model_name: str,
    handler: str,
    version: str,
    *,
    serialized_file: StrPath | None = None,
    model_file: StrPath | None = None,
    extra_files: StrPath | Sequence[StrPath] | None = None,
    runtime: str = "python",
    export_path: StrPath = ".",
    archive_format: str = "default",
    force: bool = False,
    requirements_file: StrPath | None = None,
    config_file: StrPath | None = None,
    keep_tree: bool = False,
    last_wins: bool = False,
    warmup: StrPath | None = None,
) -> Path:
    """Make a model archive and return its path.

    The arguments are the options of torch-model-archiver; `Recipe` tells of the last three,
    which are ours. Warnings go to the logger ``ts_archiver.packing``.

    Raises:
        PackError: one line with cause and cure; nothing is left behind.
    """
    recipe = Recipe(
        model_name=model_name,
        handler=handler,
        version=version,
        serialized_file=serialized_file,
        model_file=model_file,
        extra_files=extra_files,
        runtime=runtime,
        export_path=export_path,
        archive_format=archive_format,
        force=force,
        requirements_file=requirements_file,
        config_file=config_file,
        keep_tree=keep_tree,
        last_wins=last_wins,
        warmup=warmup,
    )
    return pack_recipe(recipe, warn=logger.warning)


def pack_recipe(
    recipe: Recipe,
    *,
    warn: Warn,
    progress: Progress | None = None,
    described: manifest.Manifest | None = None,
) -> Path:
    """`pack` with its options as one value and its messages as calls.

    Args:
        warn: told one line for each thing that is odd but no error.
        progress: told how many bytes are to be read, and of each as it is.
        described: a manifest of the caller's own, to which the files' hashes are added; that of
            ``recipe`` where None.
    """
    recipe.check()
    folder = recipe.archive_format == "no-archive"
    check_target(recipe.target, force=recipe.force, folder=folder)
    members = collect(recipe, warn)
    created_on = manifest.creation_time(members, os.environ.get("SOURCE_DATE_EPOCH"))
    for path in (recipe.handler_file(), recipe.model_file):
        check_syntax(path, warn)
    check_yaml(recipe.config_file, warn)
    described = described or manifest.describe(recipe, created_on)
    with staged(recipe.target, force=recipe.force, folder=folder, warn=warn) as temporary:
        _write(recipe, temporary, members, described, progress or _silent)
    return recipe.target


def _write(
    recipe: Recipe,
    temporary: Path,
    members: list[Member],
    described: manifest.Manifest,
    progress: Progress,
) -> None:
    digests: dict[str, str] = {}
    total = sum(member.size for member in members)
    with (
        open_writer(recipe.archive_format, temporary, recipe.model_name) as writer,
        progress(total) as tick,
        Hasher() as hasher,
    ):
        for member in members:
            writer.add(member, chunks(member, hasher.update, tick))
            digests[member.name] = hasher.finish()
        writer.add_bytes(MANIFEST_NAME, manifest.build(described, members, digests))


def chunks(
    member: Member, hash_update: Callable[[bytes], None], tick: Callable[[int], object]
) -> Iterator[bytes]:
    """The bytes of a file, hashed on their way, so that each file is read once."""
    count = 0
    for chunk in _read(member.path):
        count += len(chunk)
        if count > member.size:
            break
        hash_update(chunk)
        yield chunk
        tick(len(chunk))
    if count != member.size:
        raise MissingInput(f"{member.path} changed while it was packaged. Try again.")


def _read(path: Path) -> Iterator[bytes]:
    """Errors of an input become ours here, so that any other OSError is the output's."""
    try:
        file = path.open("rb", buffering=0)
    except OSError as error:
        raise _unreadable(path, error) from error
    with file:
        while True:
            try:
                chunk = file.read(_CHUNK)
            except OSError as error:
                raise _unreadable(path, error) from error
            if not chunk:
                return
            yield chunk


def _unreadable(path: Path, error: OSError) -> MissingInput:
    return MissingInput(f"can't read {path}: {reason(error)}.")


def check_syntax(path: StrPath | None, warn: Warn) -> None:
    """Warn of code that no worker can load. Only warn: it may be meant for another Python."""
    if path is None or Path(path).suffix != ".py":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(Path(path).read_bytes(), os.fspath(path), "exec", dont_inherit=True)
    except SyntaxError as error:
        warn(f"{path} line {error.lineno}: {error.msg}. A worker can't load this file.")
    except (ValueError, RecursionError, MemoryError) as error:
        warn(f"{path} does not compile: {error}. A worker can't load this file.")


def check_yaml(path: StrPath | None, warn: Warn) -> None:
    """Warn of a config file that no server can read. Only warn: TorchServe's tool packs it too."""
    if path is None:
        return
    import yaml  # here: most archives have no config file

    try:
        parsed = yaml.safe_load(Path(path).read_bytes())
    except OSError:
        return  # packing tells
    except (yaml.YAMLError, ValueError) as error:
        cause = " ".join(str(error).split())
        warn(f"{path} is not valid YAML: {cause}. The server will refuse it.")
    else:
        if parsed is not None and not isinstance(parsed, dict):
            warn(f"{path} holds no `key: value` lines. The server will refuse it.")


@contextlib.contextmanager
def _silent(_total: int) -> Iterator[Callable[[int], object]]:
    yield lambda _count: None
