"""A worker's life after birth: load one model, then answer batches until the server hangs up.

`zygote` and `spawned` call `live`; everything a model does happens below `ts.service.Service`.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from typing import Any, NoReturn

from ts_worker.messages import Load, Loaded, Predict, ReplyChunk, Threads, pack_headers
from ts_worker.runtime.answers import answer
from ts_worker.runtime.birth import leave, name_process, replace_environment
from ts_worker.runtime.channel import Channel, Closed
from ts_worker.runtime.logs import FrameHandler, install
from ts_worker.runtime.modules import make_room
from ts_worker.runtime.threads import ThreadCount

log = logging.getLogger(__name__)


def live(connection: int) -> NoReturn:
    """Be a worker on this socket descriptor until the server hangs up or the handler exits."""
    code = 1
    try:
        with socket.socket(fileno=connection) as sock:
            code = run(sock)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    leave(code)


def run(sock: socket.socket) -> int:
    """Serve one server connection; returns the exit code of the process."""
    channel = Channel(sock)
    try:
        first = channel.receive()
        if not isinstance(first, Load):
            raise RuntimeError(f"The first frame must be Load, not {type(first).__name__}")
        records = install(channel)
        # TorchServe's lines, which scripts look for in the model's log.
        print(f"[PID]{os.getpid()}\nTorch worker started.", flush=True)
        threads = ThreadCount()
        service = _load(channel, first, threads)
        if service is None:
            return 1
        channel.send(Loaded(200, f"loaded model {first.model_name}", ""))
        _serve(channel, service, first, records, threads)
    except Closed:
        pass
    return 0


def _load(channel: Channel, load: Load, threads: ThreadCount) -> Any:
    """Set up the process for this model and load it; None when that failed and was reported."""
    try:
        _assert_origin()
        metrics = _metrics(load)  # reads yaml: before the model's folder, which may hold its own
        _settle(load)
        threads.apply(load.threads)
        service = _service(load, metrics)
        _connect(service, channel)
    except Closed:
        raise
    except (Exception, SystemExit) as error:  # the user's own code runs in there
        log.error("Loading model %s failed", load.model_name)
        channel.send(_load_failure(error))
        return None
    return service


def _connect(service: Any, channel: Channel) -> None:
    """Let the handler's context stream through the channel and learn of cancellations."""
    service.set_chunk_sink(
        lambda request_id, status, reason, headers, body: channel.send(
            ReplyChunk(
                request_id.encode(), status, reason, pack_headers(list(headers.items())), body
            )
        )
    )
    service.set_cancel_probe(channel.is_cancelled)


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


def _load_failure(error: BaseException) -> Loaded:
    """The cause in one line and its traceback, with TorchServe's code for exhausted memory."""
    out_of_memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "CUDA" in str(error)
    )
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    cause = f"{type(error).__name__}: {_text(error)}".rstrip(": ")
    if out_of_memory:
        return Loaded(507, f"System out of memory ({cause})", text)
    return Loaded(500, cause, text)


def _text(error: BaseException) -> str:
    try:
        from ts.failures import refused_pickle
    except ImportError:  # the package ts is somebody else's, which may be what the error says
        return str(error)
    return refused_pickle(error) or str(error)


def _serve(
    channel: Channel, service: Any, load: Load, records: FrameHandler, threads: ThreadCount
) -> None:
    while True:
        message = channel.receive()
        if isinstance(message, Predict):
            records.begin(message.requests)
            answer(channel, service, message, load.decode_input_request, records)
            records.end()
            channel.end_batch(message)
        elif isinstance(message, Threads):
            threads.apply(message.number)
        else:
            log.warning("A frame %s came that this worker can't use", type(message).__name__)
