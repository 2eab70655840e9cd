"""Packaging a model from Python."""

from __future__ import annotations

import json
import logging
from typing import Any

from model_archiver.arg_parser import ArgParser
from model_archiver.model_archiver_config import ModelArchiverConfig, recipe_of
from model_archiver.model_archiver_error import ModelArchiverError
from model_archiver.model_packaging_utils import ModelExportUtils, errors_as_ours
from ts_archiver.packing import pack_recipe

__all__ = [
    "ArgParser",
    "ModelArchiverConfig",
    "ModelArchiverError",
    "ModelExportUtils",
    "generate_model_archive",
    "package_model",
]

logger = logging.getLogger(__name__)


def generate_model_archive(config: ModelArchiverConfig | None = None) -> None:
    """Package a model as ``config`` says, or as the command line does where it is None.

    Raises:
        ModelArchiverError: the model can't be packaged; nothing is left behind.
    """
    if config is None:
        config = ArgParser.export_model_args_parser()
    with errors_as_ours():
        pack_recipe(recipe_of(config), warn=logger.warning)


def package_model(config: Any, manifest: str) -> None:
    """Package a model with a manifest of the caller's own.

    Args:
        config: has the attributes of `ModelArchiverConfig`; a Namespace will do.
        manifest: the JSON text of `ModelExportUtils.generate_manifest_json`, perhaps with more in
            it; the files' hashes are added.

    Raises:
        ModelArchiverError: the model can't be packaged; nothing is left behind.
    """
    try:
        described = json.loads(manifest)
    except ValueError as error:
        raise ModelArchiverError(f"The manifest is not valid JSON: {error}") from error
    with errors_as_ours():
        pack_recipe(recipe_of(config), warn=logger.warning, described=described)


if __name__ == "__main__":
    generate_model_archive()
