"""A model cut into pipeline stages by PiPPy, whose stages talk over torch's RPC.

All settings are in the section ``pippy`` of the model's yaml.
"""

from __future__ import annotations

import inspect
import os
from typing import Any, Dict

from ts.context import Context
from ts.optional import require


def initialize_rpc_workers(local_rank: int, world_size: int, ctx: Context) -> None:
    """Join this process to the model's others as the RPC worker ``worker<local_rank>``.

    Returns once all have joined. The yaml's ``pippy.rpc_timeout`` (seconds) and
    ``pippy.num_worker_threads`` are torch's defaults where they are not given. MASTER_ADDR and
    MASTER_PORT are torchrun's.
    """
    import torch
    from torch.distributed import rpc

    section = _section(ctx)
    names = ("rpc_timeout", "num_worker_threads")
    options = rpc.TensorPipeRpcBackendOptions(
        **{name: section[name] for name in names if name in section}
    )
    devices = torch.cuda.device_count()
    if devices:
        for rank in range(world_size):
            options.set_device_map(f"worker{rank}", {local_rank % devices: rank % devices})
    rpc.init_rpc(
        f"worker{local_rank}",
        rank=local_rank,
        world_size=world_size,
        rpc_backend_options=options,
    )


def get_pipeline_driver(model: Any, world_size: int, ctx: Context) -> Any:
    """Cut ``model`` into ``world_size`` stages of equal size and return the pipeline's driver.

    Of the yaml: ``pippy: {input_names, model_type, chunks}``, ``handler: {model_path,
    index_filename}``. ``model_type: HF`` traces with PiPPy's tracer for transformers; an
    index file makes each rank load only its own weights.

    Raises:
        ValueError: no ``pippy.input_names``.
        ImportError: PiPPy is not installed.
    """
    section = _section(ctx)
    input_names = section.get("input_names")
    if not input_names:
        raise ValueError(
            f"Model {ctx.model_name}: add the names of the model's inputs to its yaml, as in "
            "`pippy: {input_names: [input_ids]}`"
        )
    pippy = require("pippy", "torchpippy", "This handler")
    # What is not an input is traced as the constant that is its default.
    parameters = inspect.signature(model.forward).parameters.values()
    constants = {p.name: p.default for p in parameters if p.name not in input_names}
    options: Dict[str, Any] = {"concrete_args": constants, **_weights(ctx)}
    if section.get("model_type") == "HF":
        options["tracer"] = require("pippy.hf", "torchpippy", "This handler").PiPPyHFTracer()
    model.eval()
    driver, _ = pippy.all_compile(
        model,
        num_ranks=world_size,
        num_chunks=section.get("chunks", 1),
        schedule="FillDrain",
        split_policy=pippy.split_into_equal_size(world_size),
        **options,
    )
    return driver


# The name that TorchServe's documents give it.
get_pipline_driver = get_pipeline_driver


def _section(ctx: Context) -> Dict[str, Any]:
    return (ctx.model_yaml_config or {}).get("pippy") or {}


def _weights(ctx: Context) -> Dict[str, str]:
    handler = (ctx.model_yaml_config or {}).get("handler") or {}
    if not handler.get("index_filename"):
        return {}
    folder = os.path.join(ctx.system_properties["model_dir"], handler.get("model_path") or "")
    index = os.path.join(folder, handler["index_filename"])
    if not os.path.isfile(index):
        raise ValueError(
            f"Model {ctx.model_name}: there is no {index}, the handler.index_filename of its yaml"
        )
    return {"index_filename": index, "checkpoint_prefix": folder}
