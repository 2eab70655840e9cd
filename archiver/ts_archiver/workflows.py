"""Packages a workflow: its graph (yaml), the file with its functions, and further files.

`workflow_archiver` and the command `torch-workflow-archiver` call it. A `.war` is a zip like a
`.mar`, with its manifest in WAR-INF.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ts_archiver.errors import BadOption, WriteFailed
from ts_archiver.manifest import ARCHIVER_VERSION, creation_time
from ts_archiver.packing import check_syntax, check_yaml, chunks
from ts_archiver.recipe import StrPath, is_name
from ts_archiver.sources import Member, choose, file_member
from ts_archiver.staging import check_target, staged
from ts_archiver.writers import open_writer

logger = logging.getLogger(__name__)

WAR_MANIFEST_NAME = "WAR-INF/MANIFEST.json"


def pack_workflow(
    workflow_name: str,
    spec_file: StrPath,
    handler: StrPath,
    *,
    extra_files: str | None = None,
    export_path: StrPath = ".",
    force: bool = False,
    described: dict[str, Any] | None = None,
) -> Path:
    """Make a workflow archive and return its path.

    Args:
        spec_file: the yaml of the graph.
        handler: the Python file with the functions of its nodes.
        extra_files: further files, with commas between them.
        export_path: folder to put it in; it must exist.
        described: a manifest of the caller's own.

    Raises:
        PackError: one line with cause and cure; nothing is left behind.
    """
    check_workflow_name(workflow_name)
    check_export_path(export_path)
    if not handler:
        raise BadOption("no handler: name the Python file of the workflow's functions (--handler).")
    target = Path(export_path, f"{workflow_name}.war")
    check_target(target, force=force, folder=False)
    members = collect_files([spec_file, handler, extra_files])
    check_yaml(spec_file, logger.warning)
    check_syntax(handler, logger.warning)
    created_on = creation_time(members, os.environ.get("SOURCE_DATE_EPOCH"))
    described = described or describe_workflow(workflow_name, spec_file, handler, created_on)
    write_workflow(target, members, described, force=force)
    return target


def describe_workflow(
    workflow_name: str, spec_file: StrPath, handler: StrPath, created_on: str
) -> dict[str, Any]:
    """The manifest, with TorchServe's keys in their order."""
    return {
        "createdOn": created_on,
        "workflow": {
            "workflowName": workflow_name,
            "specFile": os.path.basename(spec_file),
            "handler": os.path.basename(handler),
        },
        "archiverVersion": ARCHIVER_VERSION,
    }


def check_workflow_name(name: str) -> None:
    """Refuse a name that can't be a file's.

    Raises:
        BadOption: see the message.
    """
    if not is_name(name):
        raise BadOption(
            f"Workflow name contains special characters: {name!r}. Use letters, digits, '_', '-' "
            "and '.', with a letter or digit first."
        )


def check_export_path(path: StrPath) -> None:
    """Refuse what is no folder; unlike a model's, a workflow's is not made.

    Raises:
        WriteFailed: see the message.
    """
    if not os.path.isdir(path):
        raise WriteFailed(f"Given export-path {path} is not a directory. Give a folder.")


def collect_files(files: Iterable[StrPath | None]) -> list[Member]:
    """The files by name; each element may be several with commas between them, as TorchServe's
    tool takes each of its options, and of two for one name the later one is taken.

    Raises:
        MissingInput: a file is missing, unreadable, or no plain file.
    """
    chosen: dict[str, Member] = {}
    for element in files:
        for path in os.fspath(element).split(",") if element else ():
            choose(chosen, file_member(os.path.basename(path), Path(path)), True, logger.warning)
    return [chosen[name] for name in sorted(chosen)]


def write_workflow(
    target: Path, members: list[Member], described: dict[str, Any], *, force: bool = True
) -> None:
    """Write the archive, whole or not at all.

    Raises:
        WriteFailed, AlreadyExists: see `staged`.
    """
    with (
        staged(target, force=force, folder=False, warn=logger.warning) as temporary,
        open_writer("default", temporary, target.stem) as writer,
    ):
        for member in members:
            writer.add(member, chunks(member, lambda _chunk: None, lambda _count: None))
        writer.add_bytes(WAR_MANIFEST_NAME, json.dumps(described, indent=2).encode())
