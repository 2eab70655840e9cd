"""Makes a process a model's own and loads the model. Called by `loop` and `run_handler`.

Folder, environment, import path, metrics and loader are settled in one place, so that a handler
that is tried out by hand finds what it will find in a worker.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from ts_worker.messages import Load
from ts_worker.runtime.birth import name_process, replace_environment
from ts_worker.runtime.modules import make_room
from ts_worker.runtime.threads import ThreadCount


def load_service(load: Load, threads: ThreadCount) -> Any:
    """Load a model into this process and return its `ts.service.Service`.

    Raises:
        RuntimeError: the interpreter has another package `ts`.
        Exception: whatever the handler's own code raises, unchanged; SystemExit as well.
    """
    _assert_origin()
    metrics = _metrics(load)  # reads yaml: before the model's folder, which may hold its own
    _settle(load)
    threads.apply(load.threads)
    return _service(load, metrics)


def _assert_origin() -> None:
    """Import `ts` before the model's folder, which may hold one of its own, and see whose it is.

    Raises:
        RuntimeError: the model's interpreter has another package of that name.
    """
    import ts

    parent = os.path.dirname(os.path.dirname(os.path.abspath(ts.__file__ or "")))
    try:
        from ts.context import ChunkSink  # noqa: F401
    except ImportError as error:
        raise RuntimeError(
            f"The package ts in {parent} is not this server's. If it is TorchServe's: "
            f"{sys.executable} -m pip uninstall torchserve"
        ) from error


def _settle(load: Load) -> None:
    """Give the process the model's folder, environment and import path."""
    name_process(f"ts:{load.model_name}")
    if load.env is not None:
        replace_environment(load.env)
    inherited = os.environ.get("PYTHONPATH")
    # For Python programs that a handler starts itself; this process reads sys.path.
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*load.import_paths, *([inherited] if inherited else [])]
    )
    os.chdir(load.model_dir)
    make_room(load.import_paths)
    sys.path[:] = [*load.import_paths, *(p for p in sys.path if p not in load.import_paths)]
    sys.argv[:] = [load.handler]
    # Unpickled classes and multiprocessing look at __main__: let it not be our zygote.
    sys.modules["__main__"].__dict__.pop("__file__", None)


def _metrics(load: Load) -> Any:
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    packaged = os.path.join(os.path.dirname(ts.__file__), "configs", "metrics.yaml")
    metrics = MetricsCacheYamlImpl(config_file_path=load.metrics_config or packaged)
    metrics.initialize_cache()
    metrics.model_name = load.model_name
    return metrics


def _service(load: Load, metrics: Any) -> Any:
    from ts.model_loader import ModelLoaderFactory

    return ModelLoaderFactory.get_model_loader().load(
        load.model_name,
        load.model_dir,
        load.handler,
        load.gpu_id,
        load.batch_size,
        load.envelope,
        load.limit_max_image_pixels,
        metrics,
    )
