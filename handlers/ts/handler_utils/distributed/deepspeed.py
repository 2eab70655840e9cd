"""A model in DeepSpeed's inference engine, set up by the section ``deepspeed`` of its yaml."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, Dict, Optional

from ts.context import Context
from ts.optional import require


def get_ds_engine(model: Any, ctx: Context) -> Any:
    """The engine around ``model``, which `engine.module` gives back.

    The yaml's ``deepspeed: {config: ds-config.json, checkpoint: checkpoints.json}`` names files of
    the archive. Without a checkpoint the weights under ``handler: {model_path: ...}`` are listed in
    one.

    Raises:
        ValueError: the section or its config is missing, or a file is not there.
        ImportError: deepspeed is not installed.
    """
    config = ctx.model_yaml_config or {}
    section = config.get("deepspeed")
    if not isinstance(section, dict):
        raise ValueError(
            f"Model {ctx.model_name} has no section deepspeed in its yaml: add "
            "`deepspeed: {config: ds-config.json}`"
        )
    ds_config = _file(ctx, section, "config")
    if ds_config is None:
        raise ValueError(f"Model {ctx.model_name}: deepspeed in its yaml names no config file")
    checkpoint = _file(ctx, section, "checkpoint") or _listed_weights(ctx, config.get("handler"))
    deepspeed = require("deepspeed", "deepspeed", "This handler")
    options = {"checkpoint": checkpoint} if checkpoint else {}
    return deepspeed.init_inference(model=model, config=ds_config, **options)


def create_checkpoints_json(model_path: Any, file: Any) -> None:
    """Write DeepSpeed's list of a model's weights: all .bin and .pt files below ``model_path``.

    Every rank of a model may call it: the file is complete as soon as it is there.
    """
    root = Path(model_path)
    weights = sorted(
        str(path) for path in root.rglob("*") if path.suffix in (".bin", ".pt") and path.is_file()
    )
    listing = {"type": "ds_model", "checkpoints": weights, "version": 1.0}
    target = Path(file)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump(listing, stream)
    os.replace(temporary, target)


def _file(ctx: Context, section: Dict[str, Any], key: str) -> Optional[str]:
    if not section.get(key):
        return None
    path = os.path.join(ctx.system_properties["model_dir"], section[key])
    if not os.path.isfile(path):
        raise ValueError(
            f"Model {ctx.model_name} has no file {section[key]}, the deepspeed {key} of its yaml: "
            "pack it with --extra-files"
        )
    return path


def _listed_weights(ctx: Context, handler: Any) -> Optional[str]:
    named = handler.get("model_path") if isinstance(handler, dict) else None
    if not named:
        return None
    model_dir = ctx.system_properties["model_dir"]
    model_path = os.path.join(model_dir, named)
    if not os.path.isdir(model_path):
        raise ValueError(f"Model {ctx.model_name}: model_path {named} of its yaml is no folder")
    file = os.path.join(model_dir, "checkpoints.json")
    create_checkpoints_json(model_path, file)
    return file
