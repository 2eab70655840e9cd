"""The zygote: imports torch once, then forks a worker whenever the server asks.

Started by exec from `backend.zygotes`; ``python -m ts_worker.runtime.zygote CONTROL LIFELINE``.
It speaks over CONTROL, a sequenced-packet socket: a request is one letter (W a worker, Z a spare
zygote) with the child's descriptors beside it, the answer is in `_fork`. It stays single-threaded
and touches no device, because a fork copies one thread and no driver state.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import socket
import struct
import sys
from typing import Callable, List, NoReturn, Optional, Tuple

from ts_worker.runtime import birth, loop
from ts_worker.runtime.threads import known_libraries

PID = struct.Struct("!q")
_MODULES = (
    "numpy",
    "torch",
    "torchvision",
    "PIL.Image",
    "yaml",
    "ts.model_loader",
    "ts.metrics.metric_cache_yaml_impl",
    "ts.torch_handler.image_classifier",
    "ts.torch_handler.object_detector",
    "ts.torch_handler.image_segmenter",
    "ts.torch_handler.text_classifier",
)


def main(control: socket.socket, lifeline: int) -> int:
    """Import, tell the server what is imported, fork until the server hangs up."""
    os.setsid()
    birth.ignore_terminal_signals()
    birth.die_with_server(lifeline)
    birth.name_process("ts:zygote")
    for name in _MODULES:
        # A missing torchvision only means that the models which need it will say so.
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    known_libraries()
    gc.collect()
    gc.freeze()  # a collection in a child must not touch, and so copy, what it inherited
    tops = sorted({name.partition(".")[0] for name in sys.modules} - {"__main__"})
    control.sendall(json.dumps(tops).encode())
    return _serve(control, lifeline)


def _serve(control: socket.socket, lifeline: int) -> int:
    while True:
        request, descriptors, _flags, _address = socket.recv_fds(control, 1, 4)
        if not request:
            return 0
        life = _fork(control, lifeline, request, descriptors)
        if life is not None:
            return life()
        for descriptor in descriptors:
            os.close(descriptor)


def _fork(
    control: socket.socket, lifeline: int, request: bytes, descriptors: List[int]
) -> Optional[Callable[[], int]]:
    """Fork twice, so that the server (a subreaper) becomes the child's parent and reaps it.

    Returns None in the zygote and, in the child, the function that is the rest of its life. Every
    request gets one answer, whatever happened: the child's pid, 0 when the kernel would not fork,
    or the number of threads, negative.
    """
    tasks = len(os.listdir("/proc/self/task"))
    if tasks != 1:
        control.sendall(PID.pack(-tasks))
        return None
    read_end, write_end = os.pipe()
    middle = _try_fork()
    if middle:
        os.close(write_end)
        if middle > 0:
            os.waitpid(middle, 0)
        control.sendall(os.read(read_end, PID.size) or PID.pack(0))
        os.close(read_end)
        return None
    os.close(read_end)
    child = _try_fork()
    if child:
        if child > 0:
            os.write(write_end, PID.pack(child))
        os._exit(0)
    os.close(write_end)
    control.close()
    os.close(lifeline)
    return (lambda: _worker(descriptors)) if request == b"W" else (lambda: _spare(descriptors))


def _try_fork() -> int:
    """Like `os.fork`, but -1 when the kernel refuses: too many processes, no memory."""
    try:
        return os.fork()
    except OSError:
        return -1


def _worker(descriptors: List[int]) -> NoReturn:
    connection, stdout, stderr, lifeline = descriptors
    os.setsid()
    birth.die_with_server(lifeline)
    birth.take_output(stdout, stderr)
    birth.reseed()
    loop.live(connection)


def _spare(descriptors: List[int]) -> int:
    connection, lifeline = descriptors
    os.setsid()
    birth.die_with_server(lifeline)
    with socket.socket(fileno=connection) as control:
        return _serve(control, lifeline)


def _arguments(argv: List[str]) -> Tuple[socket.socket, int]:
    return socket.socket(fileno=int(argv[1])), int(argv[2])


if __name__ == "__main__":
    birth.leave(main(*_arguments(sys.argv)))
