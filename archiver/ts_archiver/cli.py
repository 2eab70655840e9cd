"""The commands `archiver` and `torch-model-archiver`.

Both package a model with the same options; `archiver inspect` looks into an archive. Exit codes
are torch-model-archiver's: 0 done, 1 refused or failed, 2 wrong usage.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import click

from ts_archiver.entries import Limits
from ts_archiver.errors import ArchiveError
from ts_archiver.inspecting import Inspection, inspect
from ts_archiver.options import ArgparseCommand
from ts_archiver.packing import pack_recipe
from ts_archiver.recipe import BUILTIN_HANDLERS, RUNTIMES, Recipe
from ts_archiver.rivals import rivals

_SETTINGS = {"help_option_names": ["-h", "--help"]}

_TITLE = "Package a model's files into an archive that TorchServe and torchserve-py serve."
_INSPECT_HINT = "To look into an archive and check its hashes: archiver inspect FILE"


def archiver() -> None:
    """Entry point of `archiver`; the first word chooses between packaging and looking."""
    _unwind_on_signals()
    args = sys.argv[1:]
    if args[:1] == ["inspect"]:
        inspect_command.main(args[1:], prog_name="archiver inspect")
    else:
        archiver_command.main(args, prog_name="archiver")


def torch_model_archiver() -> None:
    """Entry point of `torch-model-archiver`: of two inputs for one name, the later one wins."""
    _unwind_on_signals()
    torch_model_archiver_command.main(sys.argv[1:], prog_name="torch-model-archiver")


def _packing_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options of torch-model-archiver 0.12, under its names."""
    builtin = ", ".join(sorted(BUILTIN_HANDLERS))
    options = [
        click.option("--model-name", required=True, help="Name of the model and of its archive."),
        click.option("--serialized-file", help="Weights, TorchScript, .pt2 or .onnx file."),
        click.option("--model-file", help="Python file with the model's class (eager mode)."),
        click.option(
            "--handler",
            required=True,
            help=f"Python file, file:function, or a built-in handler: {builtin}.",
        ),
        click.option(
            "--extra-files", help="Further files, folders and patterns, with commas between them."
        ),
        click.option(
            "--runtime",
            type=click.Choice(RUNTIMES),
            default="python",
            show_default=True,
            help="What runs the model; LSP is TorchServe's C++ backend.",
        ),
        click.option(
            "--export-path",
            default=".",
            show_default="current folder",
            help="Folder to put the archive in; made where it is missing.",
        ),
        click.option(
            "--archive-format",
            type=click.Choice(["tgz", "no-archive", "zip-store", "default"]),
            default="default",
            show_default=True,
            help="default: .mar with text deflated. zip-store: .mar with nothing compressed. "
            "tgz: .tar.gz. no-archive: a plain folder.",
        ),
        click.option("-f", "--force", is_flag=True, help="Overwrite an existing archive."),
        click.option("-v", "--version", required=True, help="Version of the model."),
        click.option("-r", "--requirements-file", help="requirements.txt of the model."),
        click.option("-c", "--config-file", help="Model configuration (yaml)."),
        click.option(
            "--keep-tree", is_flag=True, help="Store extra folders under their own names."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.command(
    "archiver", cls=ArgparseCommand, context_settings=_SETTINGS, help=_TITLE, epilog=_INSPECT_HINT
)
@_packing_options
@click.option(
    "--last-wins",
    is_flag=True,
    help="Where two inputs differ under one name, store the later one.",
)
@click.option(
    "--warmup",
    metavar="DIR",
    help="Folder of sample requests that each worker runs before it is ready.",
)
def archiver_command(**options: Any) -> None:
    path = _pack(Recipe(**options))
    click.echo(f"Wrote {path}")


@click.command(
    "torch-model-archiver",
    cls=ArgparseCommand,
    context_settings=_SETTINGS,
    help=_TITLE,
    epilog=_INSPECT_HINT,
)
@_packing_options
def torch_model_archiver_command(**options: Any) -> None:
    _pack(replace(Recipe(**options), last_wins=True))


def _pack(recipe: Recipe) -> Path:
    for rival in rivals():
        _warn(rival)
    with _errors_as_lines():
        return pack_recipe(recipe, warn=_warn, progress=_progress)


@click.command("inspect", cls=ArgparseCommand, context_settings=_SETTINGS)
@click.argument("file")
@click.option(
    "--max-total-bytes",
    type=click.IntRange(min=1),
    default=Limits().max_total_bytes,
    show_default=True,
    help="Refuse an archive that unpacks to more.",
)
@click.option(
    "--max-ratio",
    type=click.FloatRange(min=1),
    default=Limits().max_ratio,
    show_default=True,
    help="Refuse one that unpacks to more than 1 GiB and to more times its own size.",
)
def inspect_command(file: str, max_total_bytes: int, max_ratio: float) -> None:
    """Print the manifest and the files of an archive and check their hashes.

    Exit code 1 where a file is missing, changed or added since it was packaged.
    """
    with _errors_as_lines():
        found = inspect(file, limits=Limits(max_total_bytes=max_total_bytes, max_ratio=max_ratio))
    _print(found)
    for problem in found.problems:
        click.echo(f"Error: {_printable(problem)}.", err=True)
    if found.problems:
        sys.exit(1)


def _print(found: Inspection) -> None:
    shown = {key: value for key, value in found.manifest.items() if key != "files"}
    click.echo(json.dumps(shown, indent=2))
    for file in found.files:
        click.echo(
            f"{file.size:>14,}  {file.storage:<8}  {file.verdict:<8}  {_printable(file.name)}"
        )
    total = sum(file.size for file in found.files)
    click.echo(f"{total:>14,}  bytes in {len(found.files)} files")


@contextlib.contextmanager
def _errors_as_lines() -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        click.echo(f"Error: {_printable(str(error))}", err=True)
        sys.exit(1)


def _warn(text: str) -> None:
    click.echo(f"Warning: {_printable(text)}", err=True)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal, nothing in a log."""
    if not sys.stderr.isatty():
        yield lambda _count: None
        return
    with click.progressbar(length=total, label="Packaging", file=sys.stderr) as bar:
        yield bar.update


def _printable(text: str) -> str:
    """Names come from archives of others: a terminal must not obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _unwind_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the command as Ctrl-C does: its temporary file goes."""

    def end(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, end)
    # Under nohup the terminal may close; Windows has no such signal.
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) != signal.SIG_IGN:
        signal.signal(hangup, end)
