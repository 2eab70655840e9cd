"""Serve a language model of Hugging Face with one command: ``python -m ts.llm_launcher``.

Writes the model's yaml, packs it with the handler of the engine and runs `torchserve` in the
foreground. Needs vLLM, or TensorRT-LLM with ``--engine trt_llm``.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from ts.commands import command
from ts.model_server import run
from ts.optional import require
from ts.utils.hf_utils import download_model

_HANDLERS = {"vllm": "vllm_handler", "trt_llm": "trt_llm_handler"}


def arguments(words: Optional[List[str]] = None) -> argparse.Namespace:
    """Parse the command line, ``sys.argv`` where None."""
    parser = argparse.ArgumentParser(prog="ts.llm_launcher", description="Serve a language model")
    add = parser.add_argument
    add("--model_name", default="model", help="name to serve it under")
    add("--model_store", default="model_store", help="folder to pack it into")
    add("--model_id", default="meta-llama/Meta-Llama-3.1-8B-Instruct", help="id, or a folder")
    add("--disable_token_auth", action="store_true", help="serve without tokens")
    add("--vllm_engine.max_num_seqs", type=int, default=256, help="requests at a time")
    add("--vllm_engine.max_model_len", type=int, help="tokens of a request and its answer")
    add("--vllm_engine.download_dir", help="where to keep the weights")
    add("--startup_timeout", type=int, default=1200, help="seconds that loading may take")
    add("--engine", choices=sorted(_HANDLERS), default="vllm", help="what runs the model")
    add("--dtype", default="bfloat16", help="number format of the weights")
    add("--trt_llm_engine.max_batch_size", type=int, default=4, help="requests at a time")
    add(
        "--trt_llm_engine.kv_cache_free_gpu_memory_fraction",
        type=float,
        default=0.1,
        help="share of the free GPU memory for the cache",
    )
    return parser.parse_args(words)


def get_model_config(args: argparse.Namespace, model_snapshot_path: Any = None) -> Dict[str, Any]:
    """The model's yaml.

    Args:
        model_snapshot_path: folder of the downloaded model, for TensorRT-LLM.
    """
    import torch

    gpus = torch.cuda.device_count()
    config: Dict[str, Any] = {
        "minWorkers": 1,
        "maxWorkers": 1,
        "batchSize": 1,
        "maxBatchDelay": 100,
        "responseTimeout": 1200,
        "startupTimeout": args.startup_timeout,
        "deviceType": "gpu",
        "asyncCommunication": True,
    }
    options = vars(args)
    if args.engine == "trt_llm":
        fraction = options["trt_llm_engine.kv_cache_free_gpu_memory_fraction"]
        config["handler"] = {
            "tokenizer_dir": str(model_snapshot_path),
            "engine_dir": str(_engine_dir(args)),
            "kv_cache_config": {"free_gpu_memory_fraction": fraction},
        }
        return config
    engine = {
        name: options[f"vllm_engine.{name}"]
        for name in ("max_num_seqs", "max_model_len", "download_dir")
        if options[f"vllm_engine.{name}"] is not None
    }
    engine.update(dtype=args.dtype, tensor_parallel_size=max(gpus, 1))
    # One process that sees all GPUs; vLLM spreads the model over them itself.
    config.update(parallelType="custom", parallelLevel=max(gpus, 1))
    config["handler"] = {"model_path": args.model_id, "vllm_engine_config": engine}
    return config


def create_archive(args: argparse.Namespace, config: Dict[str, Any]) -> None:
    """Pack the yaml and the handler into a folder of the model store."""
    import yaml

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model-config.yaml")
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        words = ["--model-name", args.model_name, "--version", "1.0", "--force"]
        words += ["--handler", _HANDLERS[args.engine], "--config-file", str(file)]
        words += ["--export-path", args.model_store, "--archive-format", "no-archive"]
        subprocess.run(command("torch-model-archiver", *words), check=True)


def main(args: argparse.Namespace) -> None:
    """Pack the model and serve it until the server ends.

    Raises:
        SystemExit: the server's exit code, where that is not 0.
    """
    snapshot = None
    if args.engine == "trt_llm":
        snapshot = download_model(args.model_id)
        _build_engine(args, snapshot)
    create_archive(args, get_model_config(args, snapshot))
    words = ["--start", "--foreground", "--no-config-snapshots", "--model-store", args.model_store]
    words += ["--models", args.model_name]
    words += ["--disable-token-auth"] if args.disable_token_auth else []
    run(words)


def _engine_dir(args: argparse.Namespace) -> Path:
    return Path(args.model_store, f"{args.model_name}-engine").resolve()


def _build_engine(args: argparse.Namespace, snapshot: Any) -> None:
    """Compile the model, which takes minutes; an engine that is there already is used again."""
    target = _engine_dir(args)
    if target.is_dir():
        print(f"The engine in {target} is used; remove the folder to build it anew.")
        return
    tensorrt = require("tensorrt_llm", "tensorrt-llm", "The engine trt_llm")
    build = tensorrt.BuildConfig(max_batch_size=vars(args)["trt_llm_engine.max_batch_size"])
    with tensorrt.LLM(model=str(snapshot), dtype=args.dtype, build_config=build) as model:
        model.save(str(target))


if __name__ == "__main__":
    main(arguments())
