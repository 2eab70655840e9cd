"""Everything that connects the server to one worker; `process` makes one for each attempt."""

from __future__ import annotations

import contextlib
import os
import socket


class Pipes:
    """The server's ends of everything that connects it to one worker.

    Raises:
        OSError: the server has too many open files.
    """

    def __init__(self) -> None:
        with contextlib.ExitStack() as undo:
            self.connection, self._their_connection = socket.socketpair()
            undo.callback(self._their_connection.close)
            undo.callback(self.connection.close)
            self.stdout, self._their_stdout = _pipe(undo)
            self.stderr, self._their_stderr = _pipe(undo)
            self._their_lifeline, self.lifeline = _pipe(undo)
            undo.pop_all()

    def theirs(self) -> tuple[int, int, int, int]:
        """The worker's ends: connection, stdout, stderr, lifeline."""
        connection = self._their_connection.fileno()
        return connection, self._their_stdout, self._their_stderr, self._their_lifeline

    def close_theirs(self) -> None:
        """Once the worker has copies of its own."""
        self._their_connection.close()
        for descriptor in (self._their_stdout, self._their_stderr, self._their_lifeline):
            os.close(descriptor)

    def close_ours(self) -> None:
        """When no worker came of it."""
        self.connection.close()
        for descriptor in (self.stdout, self.stderr, self.lifeline):
            os.close(descriptor)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    undo.callback(os.close, read_end)
    undo.callback(os.close, write_end)
    return read_end, write_end
