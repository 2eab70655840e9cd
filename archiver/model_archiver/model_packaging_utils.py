"""The single steps of packaging, under the names that other tools call them by."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from model_archiver.manifest_components.manifest import Manifest
from model_archiver.manifest_components.model import Model
from model_archiver.model_archiver_config import recipe_of
from model_archiver.model_archiver_error import MissingFileError, ModelArchiverError
from ts_archiver.errors import ArchiveError, MissingInput
from ts_archiver.packing import pack_recipe
from ts_archiver.recipe import SUFFIXES, Recipe, is_name
from ts_archiver.sources import MANIFEST_NAME, collect
from ts_archiver.staging import check_target

logger = logging.getLogger(__name__)

archiving_options = {name: SUFFIXES[name] for name in ("tgz", "no-archive", "zip-store", "default")}

# Built-in handlers and what they read.
model_handlers = {
    "base_handler": "base",
    "text_classifier": "text",
    "image_classifier": "vision",
    "object_detector": "vision",
    "image_segmenter": "vision",
    "dali_image_classifier": "vision",
    "vllm_handler": "text",
    "trt_llm_handler": "text",
}


@contextlib.contextmanager
def errors_as_ours() -> Iterator[None]:
    """Log an error of `ts_archiver` and raise it as one of this package."""
    try:
        yield
    except ArchiveError as error:
        logger.error(error)
        kind = MissingFileError if isinstance(error, MissingInput) else ModelArchiverError
        raise kind(str(error)) from error


class ModelExportUtils:
    """A namespace; nothing is kept between calls."""

    @staticmethod
    def get_archive_export_path(
        export_file_path: str, model_name: str, archive_format: str = "default"
    ) -> str:
        """Where the archive of a format goes."""
        return os.path.join(export_file_path, model_name + archiving_options[archive_format])

    @staticmethod
    def check_mar_already_exists(
        model_name: str,
        export_file_path: str | None,
        overwrite: bool,
        archive_format: str = "default",
    ) -> str:
        """The folder for the archive, the current one where None.

        Raises:
            ModelArchiverError: the archive exists, and not ``overwrite``.
        """
        folder = export_file_path or os.getcwd()
        target = Path(ModelExportUtils.get_archive_export_path(folder, model_name, archive_format))
        with errors_as_ours():
            check_target(target, force=overwrite, folder=archive_format == "no-archive")
        if os.path.lexists(target):
            logger.warning("Overwriting %s ...", target)
        return folder

    @staticmethod
    def find_unique(files: Iterable[str], suffix: str) -> str | None:
        """The one file that ends with ``suffix``, or None.

        Raises:
            ModelArchiverError: there are several.
        """
        found = [file for file in files if file.endswith(suffix)]
        if len(found) > 1:
            raise ModelArchiverError(
                f"Expected one file with the ending {suffix}, found {', '.join(found)}. Name it by "
                "an option."
            )
        return found[0] if found else None

    @staticmethod
    def generate_model(modelargs: Any) -> Model:
        """The manifest's part about the model."""
        entry = recipe_of(modelargs).model_entry()
        return Model(
            model_name=entry["modelName"],
            serialized_file=entry.get("serializedFile"),
            handler=entry["handler"],
            model_file=entry.get("modelFile"),
            model_version=entry.get("modelVersion"),
            requirements_file=entry.get("requirementsFile"),
            config_file=entry.get("configFile"),
        )

    @staticmethod
    def generate_manifest_json(args: Any) -> str:
        """The manifest of an archive that is yet to be made, created now."""
        model = ModelExportUtils.generate_model(args)
        return str(Manifest(getattr(args, "runtime", None) or "python", model))

    @staticmethod
    def clean_temp_files(temp_files: Iterable[str]) -> None:
        """Remove files and folders."""
        for path in temp_files:
            if os.path.isdir(path):
                shutil.rmtree(path)
            else:
                os.remove(path)

    @staticmethod
    def make_dir(d: str) -> None:
        """Make a folder unless it is there."""
        os.makedirs(d, exist_ok=True)

    @staticmethod
    def copy_artifacts(model_name: str, runtime: str, **files: Any) -> str:
        """Copy all that goes into an archive into a new temporary folder, and return that.

        Args:
            files: the options of the archive that name files.

        Raises:
            MissingFileError: a file is not there.
        """
        options = {name: value for name, value in files.items() if value is not None}
        options.setdefault("handler", "base_handler")
        recipe = Recipe(
            model_name=model_name, version="", runtime=runtime, last_wins=True, **options
        )
        with errors_as_ours():
            members = collect(recipe, logger.warning)
        folder = tempfile.mkdtemp(prefix=f"{model_name}-")
        for member in members:
            place = Path(folder, member.name)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(member.path, place)
        return folder

    @staticmethod
    def archive(
        export_file: str,
        model_name: str,
        model_path: str,
        manifest: str,
        archive_format: str = "default",
    ) -> None:
        """Pack the folder ``model_path`` with a manifest; an existing archive is replaced.

        Args:
            export_file: the folder for the archive.
        """
        recipe = Recipe(
            model_name=model_name,
            handler="base_handler",  # brings no file: all of them are in the folder
            version="",
            extra_files=Path(model_path),
            export_path=export_file,
            archive_format=archive_format,
            force=True,
        )
        with errors_as_ours():
            pack_recipe(recipe, warn=logger.warning, described=json.loads(manifest))

    @staticmethod
    def archive_dir(path: str, dst: str, archive_format: str, model_name: str) -> None:
        """Pack the folder ``path``, which holds its manifest, as ``dst``.

        Raises:
            MissingFileError: it has no manifest.
        """
        manifest = Path(path, MANIFEST_NAME)
        if not manifest.is_file():
            raise MissingFileError(f"{manifest} does not exist: an archive needs a manifest")
        target = ModelExportUtils.get_archive_export_path(
            os.path.dirname(dst), model_name, archive_format
        )
        ModelExportUtils.archive(
            os.path.dirname(dst), model_name, path, manifest.read_text("utf-8"), archive_format
        )
        if os.path.abspath(target) != os.path.abspath(dst):
            os.replace(target, dst)

    @staticmethod
    def directory_filter(directory: str, unwanted_dirs: Iterable[str]) -> bool:
        """Whether a folder of this name is packed."""
        return directory not in unwanted_dirs and not directory.startswith(".")

    @staticmethod
    def file_filter(current_file: str, files_to_exclude: Iterable[str]) -> bool:
        """Whether a file is neither hidden, nor compiled, nor among those to leave out.

        Packaging itself leaves out no file, as in TorchServe.
        """
        return current_file not in files_to_exclude and not (
            current_file.startswith(".") or current_file.endswith(".pyc")
        )

    @staticmethod
    def check_model_name_regex_or_exit(model_name: str) -> None:
        """Refuse a name that can't be a file's and a URL's part.

        Raises:
            ModelArchiverError: see the message.
        """
        if not is_name(model_name):
            raise ModelArchiverError(
                f"Model name contains special characters: {model_name!r}. Use letters, digits, "
                "'_', '-' and '.', with a letter or digit first."
            )

    @staticmethod
    def validate_inputs(model_name: str, export_path: str) -> None:
        """Check a name and a folder, which is made where it is missing.

        Raises:
            ModelArchiverError: a bad name, or the path is a file.
        """
        ModelExportUtils.check_model_name_regex_or_exit(model_name)
        if os.path.exists(export_path) and not os.path.isdir(export_path):
            raise ModelArchiverError(
                f"Given export-path {export_path} is not a directory. Give a folder."
            )
        if not os.path.isdir(export_path):
            logger.warning("Export directory (%s) does not exist. Creating...", export_path)
            os.makedirs(export_path)
