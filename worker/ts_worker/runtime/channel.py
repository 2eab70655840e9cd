"""The worker's end of its connection to the server: blocking, one thread reads at a time.

`loop` receives from it; while a handler runs, `poll` looks for cancellations and answers to calls
without a thread that would fight the handler for the interpreter lock. Only a model that asks for
batches ahead (`prefetch`) has such a thread.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Callable, Deque, List, Optional, Set

from ts_worker.frames import FrameReader
from ts_worker.messages import Call, CallReply, Cancel, Message, Metric, Predict
from ts_worker.wire import SMALL, Pieces, encode

_MAX_IOV = 512  # well below the kernel's limit of pieces in one sendmsg


class Closed(Exception):
    """The server closed the connection: time to go."""


class Channel:
    """Frames over a connected stream socket.

    Sending is safe from any thread. Metrics wait for the next reply, so that one write carries
    both.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._reader = FrameReader()
        self._inbox: Deque[Message] = deque()
        self._waiting: Deque[Metric] = deque()
        self._cancelled: Set[bytes] = set()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()
        self._more: Callable[[], object] = self._read  # waits for messages, called with that lock
        # For a thread that reads:
        self._arrived = threading.Condition(self._receiving)
        self._begin: Optional[Callable[[Predict], None]] = None
        self._idle = False  # the worker waits for a message
        self._end: Optional[Exception] = None  # why nothing more will come

    def abandon(self) -> None:
        """Give up this process's copy of the socket; whoever sends after that gets `Closed`."""
        self._sock.close()

    def receive(self) -> Message:
        """The next message, in order of arrival.

        Raises:
            Closed: the server is gone or wants this worker to end.
        """
        with self._receiving:
            while not self._inbox:
                self._idle = True
                self._more()
            return self._inbox.popleft()

    def read_ahead(self, begin: Callable[[Predict], None]) -> None:
        """Let a thread read from now on. ``begin`` is called in it with each batch that comes while
        the worker is busy; it must not wait."""
        self._begin = begin
        self._more = self._await
        threading.Thread(target=self._keep_reading, name="ts-reader", daemon=True).start()

    def poll(self) -> None:
        """Take in what has arrived, without waiting."""
        if self._begin is not None:
            if self._end is not None:
                raise self._end
            return
        with self._receiving:
            while self._read(socket.MSG_DONTWAIT):
                pass

    def is_cancelled(self, request_id: str) -> bool:
        """Whether the client of a request in the current batch has gone."""
        self.poll()
        return request_id.encode() in self._cancelled

    def send(self, message: Message) -> None:
        """Write a message, after the metrics that waited for it."""
        with self._sending:
            last = encode(message)  # may fail: the metrics wait on
            if not self._waiting:
                self._write(last)
                return
            pieces: Pieces = []
            while self._waiting:  # others may add to it meanwhile
                pieces += encode(self._waiting.popleft())
            pieces += last
            self._write([b"".join(pieces)] if sum(map(len, pieces)) <= SMALL else pieces)

    def send_later(self, metric: Metric) -> None:
        """Let a metric travel with the next message."""
        self._waiting.append(metric)

    def call(self, call: Call) -> CallReply:
        """Ask for another model's prediction and wait for it; other messages keep their order."""
        self.send(call)
        with self._receiving:
            while True:
                for reply in self._inbox:
                    if isinstance(reply, CallReply) and reply.call_id == call.call_id:
                        self._inbox.remove(reply)
                        return reply
                self._more()

    def end_batch(self) -> None:
        """Forget cancellations but those of batches that wait: this one has been answered, and of
        others before it one may have come too late."""
        if self._cancelled:
            with self._receiving:
                waiting = [one for one in self._inbox if isinstance(one, Predict)]
                self._cancelled.intersection_update(
                    request.id for one in waiting for request in one.requests
                )

    def _read(self, flags: int = 0) -> bool:
        messages = self._incoming(flags)
        for message in messages or ():
            self._deliver(message)
        return messages is not None

    def _incoming(self, flags: int = 0) -> Optional[List[Message]]:
        """What the next bytes complete; None where there are none and ``flags`` say not to wait."""
        try:
            count = self._sock.recv_into(self._reader.buffer(), 0, flags)
        except BlockingIOError:
            return None
        except OSError as error:
            raise Closed from error
        if not count:
            raise Closed
        return self._reader.received(count)

    def _deliver(self, message: Message) -> None:
        if isinstance(message, Cancel):
            self._cancelled.add(message.request_id)
            return
        if self._begin is not None and isinstance(message, Predict):
            if self._idle:
                self._idle = False  # it takes this one at once
            else:
                self._begin(message)
        self._inbox.append(message)

    def _keep_reading(self) -> None:
        try:
            while True:
                messages = self._incoming() or ()
                with self._receiving:
                    for message in messages:
                        self._deliver(message)
                    self._arrived.notify_all()
        except Exception as error:  # `Closed`, or bytes that are no frame: for who receives
            with self._receiving:
                self._end = error
                self._arrived.notify_all()

    def _await(self) -> None:
        if self._end is not None:
            raise self._end
        self._arrived.wait()

    def _write(self, pieces: Pieces) -> None:
        try:
            if len(pieces) == 1:
                self._sock.sendall(pieces[0])
                return
            views = deque(memoryview(piece).cast("B") for piece in pieces if len(piece))
            while views:
                sent = self._sock.sendmsg(list(views)[:_MAX_IOV])
                while views and sent >= len(views[0]):
                    sent -= len(views.popleft())
                if sent:
                    views[0] = views[0][sent:]
        except OSError as error:  # gone, or abandoned by a forked child
            raise Closed from error
