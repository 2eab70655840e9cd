"""SHA-256 of files on their way from one place to another, computed beside the copying.

`packing` and `unpacking` hash what they write; with two cores that takes no time of its own.
"""

from __future__ import annotations

import hashlib
import threading
from queue import Queue
from typing import Self

_ASIDE_FROM = 256 << 10  # bytes; handing less to the thread costs more than hashing it here
_WAITING = 4  # chunks: enough for both sides to keep busy, and no more memory than that


class Hasher:
    """Hashes one file after another; its thread lives from the first large chunk to the end of
    the ``with`` block. Chunks must not change after they were handed in."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._queue: Queue[bytes | None] = Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()

    def update(self, chunk: bytes) -> None:
        """Add the next bytes of the file."""
        if len(chunk) < _ASIDE_FROM:
            self._queue.join()
            self._digest.update(chunk)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="hasher", daemon=True)
            self._thread.start()
        self._queue.put(chunk)

    def finish(self) -> str:
        """The hash of what came since the last call, in hexadecimal digits."""
        self._queue.join()
        found = self._digest.hexdigest()
        self._digest = hashlib.sha256()
        return found

    def _work(self) -> None:
        while (chunk := self._queue.get()) is not None:
            self._digest.update(chunk)
            self._queue.task_done()
