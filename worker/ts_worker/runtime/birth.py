"""What a worker process does before and after it runs the user's code: who it dies with, where its
output goes, what it may inherit, how it leaves. Called by `zygote` after a fork and by `spawned`
after an exec.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import fcntl
import os
import random
import signal
import sys
from typing import Iterable, NoReturn, Tuple

from ts_worker.runtime.output import LineStream

_F_SETSIG = 10  # linux/fcntl.h; the fcntl module does not name it


def die_with_server(lifeline: int) -> None:
    """Have the kernel kill this process group when the server goes, even inside C code.

    ``lifeline`` is the read end of a pipe whose only write end the server holds: when it closes,
    the kernel sends SIGKILL to the owner of the descriptor, without waiting for Python.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, _F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        # The server may have gone before the signal was armed: then there is an end of file.
        if not os.read(lifeline, 1):
            os._exit(1)


def ignore_terminal_signals() -> None:
    """Leave Ctrl-C and SIGTERM to the server, which drains.

    Python handlers that do nothing, never SIG_IGN: that would leak through exec into whatever a
    handler starts.
    """
    signal.signal(signal.SIGINT, _nothing)
    signal.signal(signal.SIGTERM, _nothing)


def _nothing(_signum: int, _frame: object) -> None:
    pass


def take_output(stdout: int, stderr: int) -> None:
    """Make these pipes the process's output, line by line, and turn on crash stacks.

    SIGUSR2 writes the stacks of all threads, too, and the process goes on: `backend.stacks` sends
    it, and whoever wonders what a worker does.
    """
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in {stdout, stderr} - {1, 2}:
        os.close(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = LineStream(descriptor)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    faulthandler.enable(file=sys.stderr)
    faulthandler.register(signal.SIGUSR2, file=sys.stderr)


def name_process(name: str) -> None:
    """Show up as this name in ps and top (the kernel keeps 15 characters)."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
        comm.write(name[:15])


def reseed() -> None:
    """Undo what a fork shares: every worker must draw random numbers of its own."""
    random.seed()
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.seed()


def replace_environment(env: Iterable[Tuple[str, str]]) -> None:
    """Give the process the model's environment instead of the one it inherited."""
    os.environ.clear()
    os.environ.update(dict(env))


def leave(code: int) -> NoReturn:
    """End the process: exit handlers run, the interpreter is not taken apart.

    Taking apart an interpreter that holds torch costs over a second and prints warnings of its
    bindings; the kernel gives everything back at once.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
