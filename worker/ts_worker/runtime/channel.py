"""The worker's end of its connection to the server: blocking, one thread reads at a time.

`loop` receives from it; while a handler runs, `poll` looks for cancellations and answers to calls
without a thread that would fight the handler for the interpreter lock.
"""

from __future__ import annotations

import socket
import threading
from collections import deque
from typing import Deque, List, Set

from ts_worker.messages import Call, CallReply, Cancel, Message, Metric, Predict
from ts_worker.wire import FrameReader, Pieces, encode

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
        self._waiting: List[Metric] = []
        self._cancelled: Set[bytes] = set()
        self._sending = threading.Lock()
        self._receiving = threading.Lock()

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
                self._read(0)
            return self._inbox.popleft()

    def poll(self) -> None:
        """Take in what has arrived, without waiting."""
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
            pieces = [piece for metric in self._waiting for piece in encode(metric)]
            self._waiting.clear()
            pieces += encode(message)
            self._write(pieces)

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
                self._read(0)

    def end_batch(self, batch: Predict) -> None:
        """Forget cancellations of these requests: they have been answered."""
        if self._cancelled:
            self._cancelled.difference_update(request.id for request in batch.requests)

    def _read(self, flags: int) -> bool:
        try:
            count = self._sock.recv_into(self._reader.buffer(), 0, flags)
        except BlockingIOError:
            return False
        except OSError as error:
            raise Closed from error
        if not count:
            raise Closed
        for message in self._reader.received(count):
            if isinstance(message, Cancel):
                self._cancelled.add(message.request_id)
            else:
                self._inbox.append(message)
        return True

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
