"""NVIDIA DALI pipelines for image handlers, set up by the section ``dali`` of the model's yaml."""

from __future__ import annotations

import os
from typing import Any, Dict

from ts.context import Context
from ts.optional import require

# The input's name in a pipeline that a handler feeds.
SOURCE = "my_source"

_MEAN = [255 * value for value in (0.485, 0.456, 0.406)]
_STD = [255 * value for value in (0.229, 0.224, 0.225)]


def get_dali_pipeline(ctx: Context) -> Any:
    """A built pipeline with the input ``my_source``: encoded images, one per row.

    ``dali: {batch_size, num_threads, device_id, seed, pipeline_file}``. The pipeline file is a
    serialised pipeline of the archive; without one images become what ImageNet's models take, 224
    pixels each way. A ``device_id`` of null computes on the CPU.

    Raises:
        ValueError: the section or a key is missing, or the file is not there.
        ImportError: DALI is not installed.
    """
    section = (ctx.model_yaml_config or {}).get("dali")
    if not isinstance(section, dict):
        raise ValueError(
            f"Model {ctx.model_name} has no section dali in its yaml: add "
            "`dali: {batch_size: 1, num_threads: 1, device_id: 0, seed: 12}`"
        )
    missing = [key for key in ("batch_size", "num_threads", "device_id") if key not in section]
    if missing:
        raise ValueError(f"Model {ctx.model_name}: dali in its yaml lacks {', '.join(missing)}")
    options = {key: section[key] for key in ("batch_size", "num_threads", "device_id")}
    options["seed"] = section.get("seed", -1)  # DALI's own choice
    # One batch in, the same batch out: prefetching would answer with an earlier request's images.
    options.update(prefetch_queue_depth=1, exec_async=False, exec_pipelined=False)
    pipeline = _read(ctx, section, options) if section.get("pipeline_file") else _default(options)
    pipeline.build()
    return pipeline


def _read(ctx: Context, section: Dict[str, Any], options: Dict[str, Any]) -> Any:
    path = os.path.join(ctx.system_properties["model_dir"], section["pipeline_file"])
    if not os.path.isfile(path):
        raise ValueError(
            f"Model {ctx.model_name} has no file {section['pipeline_file']}, the pipeline_file of "
            "dali in its yaml: pack it with --extra-files"
        )
    pipeline = require("nvidia.dali.pipeline", "nvidia-dali-cuda120", "This handler").Pipeline
    return pipeline.deserialize(filename=path, **options)


def _default(options: Dict[str, Any]) -> Any:
    # Built from operators: TorchServe ships the same as a serialised file.
    dali = require("nvidia.dali", "nvidia-dali-cuda120", "This handler")
    fn = require("nvidia.dali.fn", "nvidia-dali-cuda120", "This handler")
    types = require("nvidia.dali.types", "nvidia-dali-cuda120", "This handler")
    pipeline = dali.Pipeline(**options)
    with pipeline:
        encoded = fn.external_source(device="cpu", name=SOURCE, dtype=types.UINT8)
        device = "cpu" if options["device_id"] is None else "mixed"
        images = fn.decoders.image(encoded, device=device, output_type=types.RGB)
        images = fn.resize(images, resize_shorter=256)
        tensors = fn.crop_mirror_normalize(
            images, dtype=types.FLOAT, output_layout="CHW", crop=(224, 224), mean=_MEAN, std=_STD
        )
        pipeline.set_outputs(tensors)
    return pipeline
