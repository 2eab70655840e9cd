"""Everything that connects the server to one worker; `process` makes one for each attempt."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

_SEND_BUFFER = 1 << 20  # bytes; a kernel that allows less takes what it allows


class Pipes:
    """The server's ends of everything that connects it to one worker.

    Raises:
        OSError: the server has too many open files.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.connection, self._their_connection = socket.socketpair()
            # The kernel's default takes a large body in two dozen pieces, each of which wakes both.
            for end in (self.connection, self._their_connection):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
            undo.callback(self._their_connection.close)
            undo.callback(self.connection.close)
            self.stdout, self._their_stdout = _pipe(undo)
            self.stderr, self._their_stderr = _pipe(undo)
            self._their_lifeline, self.lifeline = _pipe(undo)
            undo.pop_all()

    @contextlib.contextmanager
    def handed_over(self) -> Iterator[tuple[int, int, int, int]]:
        """The worker's ends: connection, stdout, stderr, lifeline. It has copies of its own
        afterwards; ours are closed too when no worker came of it."""
        theirs = (self._their_stdout, self._their_stderr, self._their_lifeline)
        try:
            yield (self._their_connection.fileno(), *theirs)
        except BaseException:
            self.connection.close()
            for descriptor in (self.stdout, self.stderr, self.lifeline):
                os.close(descriptor)
            raise
        finally:
            self._their_connection.close()
            for descriptor in theirs:
                os.close(descriptor)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    undo.callback(os.close, read_end)
    undo.callback(os.close, write_end)
    return read_end, write_end
