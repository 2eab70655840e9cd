"""Packaging a workflow, from Python and as the command `torch-workflow-archiver`."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

from ts_archiver.errors import ArchiveError
from ts_archiver.rivals import rivals
from ts_archiver.workflows import pack_workflow
from workflow_archiver.arg_parser import ArgParser
from workflow_archiver.workflow_archiver_error import WorkflowArchiverError
from workflow_archiver.workflow_packaging_utils import WorkflowExportUtils

__all__ = [
    "ArgParser",
    "WorkflowArchiverError",
    "WorkflowExportUtils",
    "generate_workflow_archive",
    "package_workflow",
]

logger = logging.getLogger(__name__)


def package_workflow(args: Any, manifest: str) -> None:
    """Package a workflow with a manifest of the caller's own.

    Args:
        args: has the attributes of the command line's options.
        manifest: the JSON text of `WorkflowExportUtils.generate_manifest_json`.

    Raises:
        SystemExit: 1 where it can't be packaged; the cause is logged and nothing is left behind.
    """
    try:
        pack_workflow(
            args.workflow_name,
            args.spec_file,
            args.handler,
            extra_files=getattr(args, "extra_files", None),
            export_path=getattr(args, "export_path", None) or ".",
            force=bool(getattr(args, "force", False)),
            described=json.loads(manifest),
        )
    except (ArchiveError, ValueError) as error:
        logger.error(error)
        sys.exit(1)


def generate_workflow_archive() -> None:
    """Package what the command line names.

    Raises:
        SystemExit: 2 for wrong usage, 1 where it can't be packaged.
    """
    logging.basicConfig(format="%(levelname)s - %(message)s")
    args = ArgParser.workflow_archiver_args_parser().parse_args()
    for rival in rivals():
        logger.warning(rival)
    package_workflow(args, WorkflowExportUtils.generate_manifest_json(args))


if __name__ == "__main__":
    generate_workflow_archive()
