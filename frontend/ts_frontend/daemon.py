"""`--start`: the server goes on in a process of its own while the command returns. Used by `cli`.

A plain fork before anything heavy is imported: no second interpreter start-up, no exec. Standard
output and error stay the caller's, as with TorchServe.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable

Serve = Callable[[Callable[[], None]], int]

_READY = b"r"


def launch(serve: Serve) -> int:
    """Run ``serve`` in a detached child; return when it is ready or has died.

    Must be called while the process has one thread.

    Args:
        serve: runs the server; it gets the function to call when the listeners are up, and
            returns the exit code.

    Returns:
        In the parent 0 when the server is up, 1 when it ended before, 130 after Ctrl-C. In the
        child what ``serve`` returns: the caller leaves with it in both.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return _await(child, reader)
    os.close(reader)
    _detach()

    def on_ready() -> None:
        # The parent may have been killed while it waited.
        with contextlib.suppress(OSError):
            os.write(writer, _READY)
        os.close(writer)

    return serve(on_ready)


def _detach() -> None:
    """Leave the terminal's session, so that closing it or Ctrl-C doesn't reach the server."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    if null != 0:
        os.close(null)


def _await(child: int, reader: int) -> int:
    """Wait for the word from the child; the end of the pipe without it is the child's end."""
    try:
        ready = os.read(reader, 1) == _READY
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        return 130
    finally:
        os.close(reader)
    if ready:
        return 0
    os.waitpid(child, 0)
    return 1
