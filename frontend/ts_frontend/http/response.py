"""Responses whose bytes are ready, which go around aiohttp's own header handling.

aiohttp would add Server, Date and a default Content-Type. `respond` makes them, aiohttp's
protocol calls `prepare` and `write_eof`.
"""

from __future__ import annotations

import asyncio
import logging

from aiohttp.abc import AbstractStreamWriter
from aiohttp.web import BaseRequest, StreamResponse

from ts_frontend.core.job import Stream
from ts_frontend.errors import ServeError
from ts_worker.messages import Buffer

log = logging.getLogger(__name__)

# Joining a small body to its head costs less than a second write; a large one isn't copied.
JOIN_BELOW = 64 * 1024
# A client that takes not one byte for so long is gone, whatever its kernel says: it must not hold
# its task, the answer and the connection for ever.
WRITE_SECONDS = 120.0


class RawResponse(StreamResponse):
    """Head and body as they go over the line."""

    def __init__(self, status: int, head: bytes, body: Buffer, keep_alive: bool) -> None:
        # Not StreamResponse.__init__, which would build header maps that nobody reads.
        self._status = status
        self._keep_alive = keep_alive
        self._head = head
        self._payload = body

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write everything, and wait for a slow client only when its buffer is full."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("The client has gone.")
        self.send(transport)
        # Small answers count too: a client may send request upon request and read none.
        if request.protocol._paused:
            await self.finish(request)
        return None

    def send(self, transport: asyncio.WriteTransport) -> None:
        """Write everything at once, however long the client takes to read it."""
        size = len(self._payload)
        if size < JOIN_BELOW:
            transport.write(self._head + self._payload if size else self._head)
        else:
            transport.writelines((self._head, self._payload))

    async def finish(self, request: BaseRequest) -> None:
        """Wait until a slow client has read what `send` wrote."""
        if request.transport is not None:
            await _drain(request, request.transport)

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class StreamedResponse(RawResponse):
    """A response written chunk by chunk as the worker sends them (§4.6).

    Args:
        stream: the chunks after the first one, ``body``; closed in the end, however it ends.
        chunked: False before HTTP/1.1, where the end of the connection ends the body.
        silent: True for HEAD: only the head is written.
    """

    def __init__(
        self,
        status: int,
        head: bytes,
        body: Buffer,
        stream: Stream,
        *,
        keep_alive: bool,
        chunked: bool,
        silent: bool,
    ) -> None:
        super().__init__(status, head, body, keep_alive)
        self._stream = stream
        self._framed = chunked
        self._silent = silent

    async def finish(self, request: BaseRequest) -> None:
        """Nothing is sent before `prepare`, which does it all."""
        await self.prepare(request)

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        """Write head and chunks until the stream ends; its reader's going away cancels it."""
        try:
            if self._silent:
                await self._write(request, self._head)
                return None
            await self._write(request, self._head + self._frame(self._payload))
            async for chunk in self._stream:
                await self._write(request, self._frame(chunk))
            await self._write(request, b"0\r\n\r\n" if self._framed else b"")
        except ServeError as error:
            # The status is long sent: closing the connection is all that can tell the client.
            log.warning("A streamed answer broke off: %s", error.message)
            if request.transport is not None:
                request.transport.close()
            raise ConnectionResetError(error.message) from error
        finally:
            await self._stream.aclose()
        return None

    def _frame(self, chunk: Buffer) -> bytes:
        if not self._framed:
            return bytes(chunk)
        # An empty chunk would end the body.
        return b"".join((b"%x\r\n" % len(chunk), chunk, b"\r\n")) if len(chunk) else b""

    async def _write(self, request: BaseRequest, data: bytes) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("The client has gone.")
        if data:
            transport.write(data)
        if request.protocol._paused:
            await _drain(request, transport)


async def _drain(request: BaseRequest, transport: asyncio.WriteTransport) -> None:
    """Wait until the client has read what is buffered for it, or the connection has ended."""
    patience = _Patience(transport)
    try:
        await request.writer.drain()
    finally:
        patience.end()


class _Patience:
    """Aborts a connection whose client takes nothing for `WRITE_SECONDS`.

    A timer beside the wait, since aiohttp's waiter cannot be awaited again once it was cancelled.
    """

    def __init__(self, transport: asyncio.WriteTransport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._left = transport.get_write_buffer_size()
        self._timer = self._loop.call_later(WRITE_SECONDS, self._look)

    def end(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        left = self._transport.get_write_buffer_size()
        if left < self._left:
            self._left = left
            self._timer = self._loop.call_later(WRITE_SECONDS, self._look)
            return
        log.info("A client read nothing for %s s: its connection is closed.", WRITE_SECONDS)
        self._transport.abort()
