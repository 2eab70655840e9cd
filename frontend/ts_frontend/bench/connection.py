"""A connection to the server, kept alive, with one request at a time on it.

`load` has many of them. A callback takes each answer: a task for each request would cost the
client more than the request itself.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable

from ts_frontend.bench.answer import Answer, AnswerReader
from ts_frontend.bench.errors import LostConnection
from ts_frontend.bench.plan import Target

Done = Callable[["Connection", Answer | LostConnection], None]


class Connection:
    """Connects when there is something to send, and again where the server has closed it.

    Args:
        done: called with the outcome of each request.
    """

    def __init__(self, target: Target, context: ssl.SSLContext | None, done: Done) -> None:
        self._target = target
        self._context = context
        self._done = done
        self._stream: _Stream | None = None
        self._opening: asyncio.Task[None] | None = None
        self.index = 0  # of the input under way
        self.due = 0.0  # when its request was to be sent, by time.monotonic
        self.sent = 0.0  # and when it was, or waited for the connection; 0 when there is none

    async def open(self) -> None:
        """Connect.

        Raises:
            LostConnection: there is no server, or it is none that is trusted.
        """
        loop = asyncio.get_running_loop()
        target, stream = self._target, _Stream(self._ended)
        try:
            async with asyncio.timeout(target.timeout):
                if target.unix is not None:
                    await loop.create_unix_connection(lambda: stream, target.unix)
                else:
                    await loop.create_connection(
                        lambda: stream, target.host, target.port, ssl=self._context
                    )
        except TimeoutError:
            raise LostConnection("no connection in time") from None
        except ssl.SSLError as error:
            raise LostConnection(f"TLS: {getattr(error, 'verify_message', '') or error}") from None
        except OSError as error:
            raise LostConnection(f"can't connect: {_reason(error)}") from None
        # The server may have closed it before anybody listened.
        self._stream = None if stream.transport.is_closing() else stream

    def send(self, request: bytes, index: int, due: float) -> None:
        """Send a request; ``done`` hears how it ends."""
        self.index, self.due, self.sent = index, due, time.monotonic()
        if self._stream is not None and self._stream.transport.is_closing():
            self._drop()
        if self._stream is not None:
            self._stream.transport.write(request)
        else:
            self._opening = asyncio.get_running_loop().create_task(self._open_and_send(request))

    def fail(self, kind: str) -> None:
        """Give up the request under way."""
        if self._opening is not None:
            self._opening.cancel()
        self._ended(self._stream, LostConnection(kind))

    async def close(self) -> None:
        """Close; nobody hears of a request that is under way."""
        self.sent = 0.0
        self._drop()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
            self._drop()

    async def _open_and_send(self, request: bytes) -> None:
        try:
            await self.open()
        except LostConnection as error:
            return self._ended(None, error)
        if self._stream is None:
            return self._ended(None, LostConnection("connection closed"))
        self._stream.transport.write(request)
        return None

    def _ended(self, stream: _Stream | None, outcome: Answer | LostConnection) -> None:
        """A request or a connection ended; what a dropped connection says doesn't count."""
        if stream is not self._stream:
            return
        busy, self.sent = self.sent, 0.0
        if not busy or isinstance(outcome, LostConnection) or outcome.last:
            self._drop()
        if busy:
            self._done(self, outcome)

    def _drop(self) -> None:
        if self._stream is not None:
            self._stream.transport.abort()
        self._stream = None


class _Stream(asyncio.Protocol):
    """One TCP or unix connection, from its begin to its end."""

    transport: asyncio.Transport

    def __init__(self, ended: Callable[[_Stream, Answer | LostConnection], None]) -> None:
        self._ended = ended
        self._reader = AnswerReader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        try:
            answer = self._reader.feed(data)
        except LostConnection as error:
            self._ended(self, error)
        else:
            if answer is not None:
                self._ended(self, answer)

    def connection_lost(self, _error: Exception | None) -> None:
        self._ended(self, self._reader.end() or LostConnection("connection closed"))


def tls(target: Target) -> ssl.SSLContext | None:
    """What connections to this target trust; None where they are not encrypted."""
    if not target.tls:
        return None
    context = ssl.create_default_context()
    if target.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _reason(error: OSError) -> str:
    """In the system's words: asyncio's own name each address that was tried."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return error.strerror or str(error)
