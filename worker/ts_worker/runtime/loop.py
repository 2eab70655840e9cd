"""A worker's life after birth: load one model, then answer batches until the server hangs up.

`zygote` and `spawned` call `live`; everything a model does happens below `ts.service.Service`.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from typing import Any, NoReturn

from ts_worker.messages import Load, Loaded, Predict, ReplyChunk, Threads, pack_headers
from ts_worker.runtime.answers import Unheard, answer
from ts_worker.runtime.birth import leave
from ts_worker.runtime.channel import Channel, Closed
from ts_worker.runtime.loading import load_service
from ts_worker.runtime.logs import FrameHandler, install
from ts_worker.runtime.prefetch import Prefetch
from ts_worker.runtime.samples import FOLDER
from ts_worker.runtime.threads import ThreadCount
from ts_worker.runtime.warmup import warm_up

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
        service = _load(channel, first, records, threads)
        if service is None:
            return 1
        channel.send(Loaded(200, f"loaded model {first.model_name}", ""))
        _serve(channel, service, first, records, threads)
    except Closed:
        pass
    return 0


def _load(channel: Channel, load: Load, records: FrameHandler, threads: ThreadCount) -> Any:
    """Set up the process for this model, load it and warm it up; None when that failed and was
    reported."""
    try:
        service = load_service(load, threads)
        if load.in_step:
            _keep_in_step(service, load.rank)
        elif not load.rank:
            with records.unmeasured():
                warm_up(service, load.decode_input_request)
        _connect(service, channel, load.rank)
        service.expect_batches_ahead(load.prefetch)
    except Closed:
        raise
    except (Exception, SystemExit) as error:  # the user's own code runs in there
        log.error("Loading model %s failed", load.model_name)
        channel.send(_load_failure(error))
        return None
    return service


def _keep_in_step(service: Any, rank: int) -> None:
    """Call the handler for whole batches only, as all ranks are: one that ran some rows again
    would wait for the others in a collective operation, for ever. And in a warm-up they would have
    to stop at the same batch when the time for it is over."""
    isolates = service.run_nothing_again()
    if rank:
        return
    why = "several processes get each batch of this model"
    if isolates:
        log.warning("isolateErrors is off: %s", why)
    if os.path.isdir(FOLDER):
        log.warning("Warm-up is left out: %s", why)


def _connect(service: Any, channel: Channel, rank: int) -> None:
    """Let the handler's context stream through the channel and learn of cancellations."""
    service.set_cancel_probe(channel.is_cancelled)
    if rank:
        service.set_chunk_sink(lambda *_: None)  # what rank 0 streams is the answer
        return
    service.set_chunk_sink(
        lambda request_id, status, reason, headers, body: channel.send(
            ReplyChunk(
                request_id.encode(), status, reason, pack_headers(list(headers.items())), body
            )
        )
    )


def _load_failure(error: BaseException) -> Loaded:
    """The cause in one line and its traceback, with TorchServe's code for exhausted memory."""
    text = _text(error)
    out_of_memory = isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "CUDA" in text
    )
    stack = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    cause = f"{type(error).__name__}: {text}".rstrip(": ")
    if out_of_memory:
        return Loaded(507, f"System out of memory ({cause})", stack)
    return Loaded(500, cause, stack)


def _text(error: BaseException) -> str:
    try:
        from ts.failures import refused_pickle, text_of
    except ImportError:  # the package ts is somebody else's, which may be what the error says
        return str(error)
    return refused_pickle(error) or text_of(error)


def _serve(
    channel: Channel, service: Any, load: Load, records: FrameHandler, threads: ThreadCount
) -> None:
    answers = Unheard(channel) if load.rank else channel
    prefetch = None
    if load.prefetch:
        prefetch = Prefetch(service, load.decode_input_request)
        channel.read_ahead(prefetch.begin)
    while True:
        message = channel.receive()
        if isinstance(message, Predict):
            records.begin(message.requests)
            answer(answers, service, message, load.decode_input_request, records, prefetch)
            records.end()
            channel.end_batch()
        elif isinstance(message, Threads):
            threads.apply(message.number)
        else:
            log.warning("A frame %s came that this worker can't use", type(message).__name__)
