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
from typing import Any, Dict, Optional

_PATIENCE = 0.25  # seconds until a line without an end goes out; the server waits as well
_LIMIT = 65536  # characters; a longer line is cut by the server anyway


class WholeWrites(io.FileIO):
    """A descriptor that takes all that is written to it at once, after what others write.

    Python's own buffered files have a lock for that which stays locked for ever in a child that is
    forked while another thread writes. Ours is made anew in every child.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self._make_lock()
        os.register_at_fork(after_in_child=self._make_lock)

    def _make_lock(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may print in the middle of a write

    def write(self, data: Any) -> int:
        whole = memoryview(data).cast("B")
        with self._lock:
            done = 0
            while done < len(whole):
                done += os.write(self.fileno(), whole[done:])
        return done


class LineStream(io.TextIOWrapper):
    """A text stream that writes whole lines, each at once.

    The beginning of a line waits for its end, separately for each thread, or for `flush`, or until
    a thread of ours finds that it has waited long enough: a prompt must be seen. That thread is
    started by the first piece of a line.

    A handler may fork at any moment, and its child print and flush.
    """

    def __init__(self, descriptor: int) -> None:
        self._pipe = WholeWrites(descriptor)
        super().__init__(
            self._pipe, encoding="utf-8", errors="backslashreplace", line_buffering=True
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
            self._send(lines + feed)
        if len(rest) > _LIMIT:
            self._send(rest)
        elif rest:
            self._begun[me] = rest
            self._watch()
        return len(text)

    def flush(self) -> None:
        self._put(threading.get_ident())

    def _send(self, text: str) -> None:
        # Past the base class, which would keep it for a flush.
        self._pipe.write(text.encode(self.encoding, self.errors or "strict"))

    def _put(self, thread: int) -> None:
        text = self._begun.pop(thread, "")
        if text:
            self._send(text)

    def _flush_all(self) -> None:
        for thread in list(self._begun):
            self._put(thread)

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
