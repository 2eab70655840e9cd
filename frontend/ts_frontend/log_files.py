"""Where log text ends: rolling files and standard output, and the threads that write there.

`logs` owns them. Nothing here can stop the server: not a full disk, a closed pipe nor a
terminal that nobody reads.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from ts_frontend import rotation
from ts_frontend.values import ConfigError

# Characters that may wait for whoever reads standard output; what exceeds them is dropped.
MAX_WAITING = 8 << 20

log = logging.getLogger(__name__)


class FileSink:
    """One log file that rolls by size and by day; written by one thread only."""

    def __init__(self, path: Path, max_bytes: int = rotation.MAX_BYTES) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._fd = -1
        self._size = 0
        self._day = ""
        self._complained = False
        self._rolling: list[threading.Thread] = []

    def open(self) -> None:
        """Create folder and file; lines of an earlier day are rolled before the first write.

        Raises:
            ConfigError: the file can't be written.
        """
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._reopen()
        except OSError as error:
            cure = "set LOG_LOCATION and METRICS_LOCATION to folders that can be written"
            raise ConfigError(
                f"log file {self._path} can't be written: {error.strerror}; {cure}"
            ) from None

    def write(self, text: str) -> None:
        """Append whole lines. What the disk refuses is lost, and stderr is told once."""
        data = text.encode("utf-8", "backslashreplace")
        try:
            self._roll_if_due(len(data))
            self._append(data)
            self._complained = False
        except OSError as error:
            self._complain(error)

    def close(self) -> None:
        """Release the file; waits for files that are still being compressed."""
        for thread in self._rolling:
            thread.join()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _reopen(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        fd = os.open(self._path, flags, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        status = os.fstat(fd)
        self._size = status.st_size
        self._day = rotation.day_of(status.st_mtime if status.st_size else time.time())

    def _roll_if_due(self, coming: int) -> None:
        full = self._size + coming > self._max_bytes
        if self._size == 0 or not (full or self._day != rotation.day_of(time.time())):
            return
        self._rolling = [thread for thread in self._rolling if thread.is_alive()]
        # Should somebody have moved the file away, a new one is opened all the same.
        with contextlib.suppress(FileNotFoundError):
            self._rolling.append(rotation.roll(self._path, self._day))
        self._reopen()

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._fd, view)
            self._size += written
            view = view[written:]

    def _complain(self, error: OSError) -> None:
        """Tell once per outage, and on stderr: the log itself is what is broken."""
        if not self._complained:
            self._complained = True
            reason = error.strerror or error
            with contextlib.suppress(OSError, ValueError):
                print(f"Log lines are lost: {self._path}: {reason}", file=sys.stderr)


class ConsoleSink:
    """Standard output. Ends itself when the other side has gone; the server goes on.

    Args:
        stream: where to write.
        note: makes a line of a remark about missing lines.
    """

    def __init__(self, stream: TextIO, note: Callable[[str], str] = "{}\n".format) -> None:
        self.closed = False
        self._stream = stream
        self._note = note
        self._waiting: list[str] = []
        self._size = 0
        self._dropped = 0
        try:
            self._fd: int | None = stream.fileno()
        except (OSError, ValueError):
            self._fd = None  # a stream in memory

    def offer(self, text: str) -> None:
        """Take lines for the next `drain`, unless too many wait already. Never blocks."""
        if self.closed:
            return
        if self._size > MAX_WAITING:
            self._dropped += text.count("\n")
            return
        self._size += len(text)
        self._waiting.append(text)

    def drain(self) -> None:
        """Write what waits. Blocks while nobody reads."""
        while self._waiting and not self.closed:
            text = self._waiting.pop(0)
            if not self._waiting and self._dropped:
                missing = f"... {self._dropped} log lines not shown: nobody read them in time"
                text += self._note(missing)
                self._dropped = 0
            try:
                self._write(text)
            except (OSError, ValueError) as error:
                self.closed = True
                self._waiting.clear()
                log.warning("standard output is gone (%s); the log files go on", error)
            self._size = sum(map(len, self._waiting))

    def _write(self, text: str) -> None:
        if self._fd is None:
            self._stream.write(text)
            self._stream.flush()
            return
        view = memoryview(text.encode("utf-8", "backslashreplace"))
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                # Whoever shares the terminal or pipe made it non-blocking.
                select.select([], [self._fd], [], 1.0)


class Pump:
    """A thread that calls ``work`` some time after somebody called `wake`.

    Producers append what is to be written, then call `wake` if ``idle``: the thread sets ``idle``
    before it takes anything, so nothing is left behind. Without work it sleeps.

    Args:
        name: of the thread.
        work: takes everything that waits.
        interval: seconds in which work gathers.
    """

    def __init__(self, name: str, work: Callable[[], None], interval: float) -> None:
        self.idle = True
        self._work = work
        self._interval = interval
        self._awake = threading.Event()
        self._hurry = threading.Event()
        self._closing = False
        self._waiting: list[threading.Event] = []
        # A daemon: standard output that nobody reads must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def wake(self) -> None:
        """There is work."""
        self.idle = False
        self._awake.set()

    def hurry(self) -> None:
        """Don't wait for the interval to end."""
        if not self._hurry.is_set():
            self._hurry.set()
            self._awake.set()

    def flush(self, timeout: float) -> bool:
        """Do everything that is due; False when that took longer than ``timeout``."""
        done = threading.Event()
        self._waiting.append(done)
        self.hurry()
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Do what is left and end; False when ``work`` blocks for longer."""
        self._closing = True
        self.hurry()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._closing:
            self._awake.wait()
            self._awake.clear()
            self._hurry.wait(self._interval)
            self._hurry.clear()
            self._round()
        self._round()

    def _round(self) -> None:
        waiting = self._waiting[:]
        del self._waiting[: len(waiting)]
        self.idle = True
        self._work()
        for done in waiting:
            done.set()
