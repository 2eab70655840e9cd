"""The server's end of a worker's connection and of its output pipes, on the event loop.

Raw non-blocking descriptors instead of asyncio transports: all batches that one turn of the loop
has formed for a worker leave at its end, in one system call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice

from ts_worker.frames import FrameReader
from ts_worker.messages import Buffer, Message
from ts_worker.wire import WireError, encode

log = logging.getLogger(__name__)

_MAX_IOV = 512
_READS_PER_TURN = 16  # then others get their turn, even if one worker never stops sending
_LINE_LIMIT = 65536
_LINE_PATIENCE = 0.3  # seconds that a line may go without its end
# Of an ended process: more than its pipes and its socket can hold, but not what somebody else who
# holds them may go on writing for ever.
_LAST_READS = 64


class Connection:
    """Sends and receives frames.

    Args:
        sock: a connected stream socket; owned from here on.
        on_message: called with each message.
        on_broken: called once, with the cause, when the worker hung up or sent nonsense.
    """

    def __init__(
        self,
        sock: socket.socket,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[Message], None],
        on_broken: Callable[[Exception | None], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._fd = sock.fileno()
        self._loop = loop
        self._reader = FrameReader()
        self._on_message = on_message
        self._on_broken = on_broken
        self._unsent: deque[Buffer] = deque()
        self._reading = True
        self._held = False
        loop.add_reader(self._fd, self._readable)

    def send(self, message: Message, *, at_once: bool = False) -> None:
        """Write a message at the end of this turn of the loop, or as soon as the worker takes it.

        Messages of one turn leave together. Lost if the worker is gone.

        Args:
            at_once: don't wait for the end of the turn, as nothing else does: who gets it idles.
        """
        if self._fd < 0:
            return
        if self._unsent:
            at_once = False  # it leaves with what is ahead of it
        elif not at_once:
            self._loop.call_soon(self._flush)
        self._unsent += encode(message)
        if at_once:
            self._flush()

    def _flush(self) -> None:
        """Write what this turn has sent; the loop tells when there is room for what is left."""
        if self._fd >= 0 and self._unsent and not self._write():
            self._loop.add_writer(self._fd, self._writable)

    def hold(self, on: bool) -> None:
        """Read nothing until released; what has been read already is still delivered."""
        if on != self._held and self._reading and self._fd >= 0:
            if on:
                self._loop.remove_reader(self._fd)
            else:
                self._loop.add_reader(self._fd, self._readable)
        self._held = on

    def hang_up(self) -> None:
        """Tell the worker that nothing more will come; it may still answer."""
        if self._unsent:
            self._flush()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket; no callback is called any more."""
        if self._fd >= 0:
            self._stop_reading()
            self._loop.remove_writer(self._fd)
            self._fd = -1
            self._unsent.clear()
            self._sock.close()

    def drain(self) -> None:
        """Deliver what arrived before the process ended."""
        if self._fd >= 0 and self._reading:
            self._held = False
            self._read(on_end=lambda error: None, limit=_LAST_READS)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def _readable(self) -> None:
        self._read(self._on_broken, _READS_PER_TURN)

    def _read(self, on_end: Callable[[Exception | None], None], limit: int) -> None:
        reads = 0
        while self._reading and not self._held and reads < limit:
            reads += 1
            buffer = self._reader.buffer()
            try:
                count = self._sock.recv_into(buffer)
                messages = self._reader.received(count) if count else None
            except BlockingIOError:
                return
            except (OSError, WireError) as error:
                self._stop_reading()
                on_end(error)
                return
            if messages is None:
                self._stop_reading()
                on_end(None)
                return
            if not self._deliver(messages, on_end):
                return
            if count < len(buffer):
                return

    def _deliver(self, messages: list[Message], on_end: Callable[[Exception | None], None]) -> bool:
        """Hand out messages; a bug in who takes them costs this worker, never the others."""
        try:
            for message in messages:
                self._on_message(message)
        except Exception as error:
            log.exception("A frame of a worker could not be handled")
            self._stop_reading()
            on_end(error)
            return False
        return True

    def _writable(self) -> None:
        if self._write():
            self._loop.remove_writer(self._fd)

    def _write(self) -> bool:
        """Write until nothing is left, which is True, or the worker takes no more for now."""
        unsent = self._unsent
        try:
            while unsent:
                sent = self._sock.sendmsg(list(islice(unsent, _MAX_IOV)))
                while unsent and sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                if sent:
                    unsent[0] = memoryview(unsent[0])[sent:]
        except BlockingIOError:
            return False
        except OSError:
            unsent.clear()  # the reading side reports the end
        return True


class LineReader:
    """Reads a pipe line by line. A line longer than 64 KiB is cut there; what has no end yet counts
    as a line after a moment: it may be a prompt."""

    def __init__(
        self, descriptor: int, loop: asyncio.AbstractEventLoop, on_line: Callable[[str], None]
    ) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._loop = loop
        self._on_line = on_line
        self._partial = b""
        self._timer: asyncio.TimerHandle | None = None
        loop.add_reader(descriptor, self._readable)

    def close(self) -> None:
        """Deliver what is there, then close the pipe, whoever else still holds it."""
        if self._descriptor < 0:
            return
        for _ in range(_LAST_READS):
            if not self._readable():
                break
        if self._descriptor >= 0:  # somebody else still holds the writing end
            self._end()

    def _readable(self) -> bool:
        if self._descriptor < 0:
            return False
        try:
            data = os.read(self._descriptor, _LINE_LIMIT)
        except BlockingIOError:
            return False
        if not data:
            self._end()
            return False
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._deliver(line)
        while len(self._partial) > _LINE_LIMIT:
            self._deliver(self._partial[:_LINE_LIMIT])
            self._partial = self._partial[_LINE_LIMIT:]
        if self._partial and self._timer is None:
            self._timer = self._loop.call_later(_LINE_PATIENCE, self._check, self._partial)
        return True

    def _check(self, seen: bytes) -> None:
        """Deliver what is still without its end, unless more of it has come meanwhile."""
        self._timer = None
        # A loop that was busy may have the rest of the line before it, unread.
        if self._readable() or not self._partial:
            return
        if self._partial is seen:
            self._deliver(seen)
            self._partial = b""
        else:
            self._timer = self._loop.call_later(_LINE_PATIENCE, self._check, self._partial)

    def _deliver(self, line: bytes) -> None:
        self._on_line(line.rstrip(b"\r").decode("utf-8", "backslashreplace"))

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._partial:
            self._deliver(self._partial)
            self._partial = b""
