"""The options of an archive as one value."""

from __future__ import annotations

import os
from argparse import Namespace
from dataclasses import dataclass, field, fields
from typing import Any

from ts_archiver.recipe import Recipe


@dataclass
class ModelArchiverConfig:
    """The options of torch-model-archiver, then one of ours; see `ts_archiver.recipe.Recipe`."""

    model_name: str
    handler: str
    version: str
    serialized_file: str | None = None
    model_file: str | None = None
    extra_files: str | None = None
    runtime: str = "python"
    export_path: str = field(default_factory=os.getcwd)
    archive_format: str = "default"
    force: bool = False
    requirements_file: str | None = None
    config_file: str | None = None
    keep_tree: bool = False

    @classmethod
    def from_args(cls, args: Namespace) -> ModelArchiverConfig:
        """Take what ``args`` has of the options; tools leave out those that came later."""
        return cls(**_options(args))


def recipe_of(config: object) -> Recipe:
    """What any object with such attributes asks for; of two files for a name the later one wins,
    as in torch-model-archiver."""
    return Recipe(**_options(config), last_wins=True)


def _options(config: object) -> dict[str, Any]:
    names = [option.name for option in fields(ModelArchiverConfig)]
    options = {name: getattr(config, name) for name in names if hasattr(config, name)}
    # A Namespace of argparse has None for what was not given.
    return {name: value for name, value in options.items() if value is not None}
