"""The single steps of packaging a workflow, under the names that other tools call them by."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from model_archiver.model_packaging_utils import ModelExportUtils
from ts_archiver.errors import ArchiveError
from ts_archiver.staging import check_target
from ts_archiver.workflows import (
    WAR_MANIFEST_NAME,
    check_export_path,
    check_workflow_name,
    collect_files,
    write_workflow,
)
from workflow_archiver.manifest_components.manifest import Manifest
from workflow_archiver.manifest_components.workflow import Workflow
from workflow_archiver.workflow_archiver_error import WorkflowArchiverError


@contextlib.contextmanager
def _errors_as_ours() -> Iterator[None]:
    try:
        yield
    except ArchiveError as error:
        raise WorkflowArchiverError(str(error)) from error


class WorkflowExportUtils:
    """A namespace; nothing is kept between calls."""

    clean_temp_files = staticmethod(ModelExportUtils.clean_temp_files)
    make_dir = staticmethod(ModelExportUtils.make_dir)
    directory_filter = staticmethod(ModelExportUtils.directory_filter)
    file_filter = staticmethod(ModelExportUtils.file_filter)

    @staticmethod
    def get_archive_export_path(export_file_path: str, workflow_name: str) -> str:
        """Where the archive goes."""
        return os.path.join(export_file_path, f"{workflow_name}.war")

    @staticmethod
    def check_war_already_exists(
        workflow_name: str, export_file_path: str | None, overwrite: bool
    ) -> str:
        """The folder for the archive, the current one where None.

        Raises:
            WorkflowArchiverError: the archive exists, and not ``overwrite``.
        """
        folder = export_file_path or os.getcwd()
        target = WorkflowExportUtils.get_archive_export_path(folder, workflow_name)
        with _errors_as_ours():
            check_target(Path(target), force=overwrite, folder=False)
        return folder

    @staticmethod
    def generate_workflow(args: Any) -> Workflow:
        """The manifest's part about the workflow."""
        return Workflow(
            args.workflow_name, os.path.basename(args.spec_file), os.path.basename(args.handler)
        )

    @staticmethod
    def generate_manifest_json(args: Any) -> str:
        """The manifest of an archive that is yet to be made, created now."""
        return str(Manifest(WorkflowExportUtils.generate_workflow(args)))

    @staticmethod
    def copy_artifacts(workflow_name: str, artifacts: Iterable[str | None]) -> str:
        """Copy files into a new temporary folder, and return that.

        Args:
            artifacts: paths, each perhaps several with commas between them; None is passed over.
        """
        with _errors_as_ours():
            members = collect_files(artifacts)
        folder = tempfile.mkdtemp(prefix=f"{workflow_name}-")
        for member in members:
            shutil.copy2(member.path, os.path.join(folder, member.name))
        return folder

    @staticmethod
    def archive(export_file: str, workflow_name: str, workflow_path: str, manifest: str) -> None:
        """Pack the files of a folder with a manifest; an existing archive is replaced.

        Args:
            export_file: the folder for the archive.
        """
        files = [path for path in Path(workflow_path).iterdir() if path.is_file()]
        target = Path(WorkflowExportUtils.get_archive_export_path(export_file, workflow_name))
        with _errors_as_ours():
            write_workflow(target, collect_files(files), json.loads(manifest))

    @staticmethod
    def archive_dir(path: str, dst: str) -> None:
        """Pack the folder ``path``, which holds its manifest, as ``dst``."""
        described = json.loads(Path(path, WAR_MANIFEST_NAME).read_text("utf-8"))
        files = [entry for entry in Path(path).iterdir() if entry.is_file()]
        with _errors_as_ours():
            write_workflow(Path(dst), collect_files(files), described)

    @staticmethod
    def check_workflow_name_regex_or_exit(workflow_name: str) -> None:
        """Refuse a name that can't be a file's.

        Raises:
            WorkflowArchiverError: see the message.
        """
        with _errors_as_ours():
            check_workflow_name(workflow_name)

    @staticmethod
    def validate_inputs(workflow_name: str, export_path: str) -> None:
        """Check a name and that the folder exists.

        Raises:
            WorkflowArchiverError: see the message.
        """
        with _errors_as_ours():
            check_workflow_name(workflow_name)
            check_export_path(export_path)
