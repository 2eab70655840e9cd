"""What a handler prints, on its way into the pipe to the server. Made by `birth.take_output`.

`print` writes a line in pieces. Python's own streams let threads mix theirs, and keep what has no
line feed yet for ever.
"""

from __future__ import annotations

import atexit
import io
import os
import threading
import time
from typing import Dict, Optional

_PATIENCE = 0.25  # seconds until a line without an end goes out; the server waits as well
_LIMIT = 65536  # characters; a longer line is cut by the server anyway


class LineStream(io.TextIOWrapper):
    """A text stream that writes whole lines, each at once.

    The beginning of a line waits for its end, separately for each thread, or for `flush`, or until
    a thread of ours finds that it has waited long enough: a prompt must be seen. That thread is
    started by the first piece of a line.

    No lock is ever held: a handler may fork at any moment.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(
            open(descriptor, "wb", closefd=False),  # noqa: SIM115  (lives as long as the process)
            encoding="utf-8",
            errors="backslashreplace",
            line_buffering=True,
        )
        self._forget()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._flush_all)

    def _forget(self) -> None:
        """Begin with nothing. In a forked child what was begun is the parent's to write, and the
        thread is not there."""
        self._begun: Dict[int, str] = {}  # by thread
        self._waiting = threading.Event()
        self._watcher: Optional[threading.Thread] = None

    def write(self, text: str) -> int:
        me = threading.get_ident()
        lines, feed, rest = (self._begun.pop(me, "") + text).rpartition("\n")
        if feed or len(rest) > _LIMIT:
            super().write(lines + feed)
        if len(rest) > _LIMIT:
            super().write(rest)
        elif rest:
            self._begun[me] = rest
            self._watch()
        return len(text)

    def flush(self) -> None:
        self._put(threading.get_ident())
        super().flush()

    def _put(self, thread: int) -> None:
        text = self._begun.pop(thread, "")
        if text:
            super().write(text)

    def _flush_all(self) -> None:
        for thread in list(self._begun):
            self._put(thread)
        super().flush()

    def _watch(self) -> None:
        if not self._waiting.is_set():
            self._waiting.set()
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._run, name="ts-output", daemon=True)
            self._watcher.start()

    def _run(self) -> None:
        while True:
            self._waiting.wait()
            self._waiting.clear()
            while self._begun:
                before = dict(self._begun)
                time.sleep(_PATIENCE)
                for thread, text in before.items():
                    if self._begun.get(thread) is text:
                        self._put(thread)
                        super().flush()
