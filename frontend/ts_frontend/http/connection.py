"""One client's connection: aiohttp's HTTP/1.1 protocol with our errors and a deadline for heads.

`server` makes one per accepted socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import StreamReader
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

from ts_frontend.errors import BadRequest, Internal, ServeError
from ts_frontend.http import draining
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.hostless import with_host
from ts_frontend.http.lane import Again
from ts_frontend.http.response import RawResponse
from ts_frontend.http.track import Track

log = logging.getLogger(__name__)

# What `Connection.start` builds on, in aiohttp's own connection; with another release that lacks
# one of them, aiohttp's loop answers everything.
_INTERNALS = (
    *("_close", "_current_request", "_force_close", "_handler_waiter", "_keepalive_handle"),
    *("_messages", "_next_keepalive_close_time", "_process_keepalive", "_request_in_progress"),
    *("_task_handler", "_waiter"),
)
_KNOWN = all(hasattr(RequestHandler, name) for name in _INTERNALS)

BUG = "The server failed to answer; its log holds the cause."

Handler = Callable[[BaseRequest], Awaitable[StreamResponse]]
# Answers a request that failed outside the faces; the request may be aiohttp's stand-in for one
# that could not be parsed.
Failed = Callable[[BaseRequest, ServeError], RawResponse]


class Connection(RequestHandler):
    """aiohttp's request loop, less its plain-text error pages.

    Attributes:
        remote_text: the client as the access log shows it, ``/127.0.0.1:53514``.
    """

    __slots__ = (
        "_arrived",
        "_failed",
        "_handler",
        "_head_since",
        "_silent",
        "_started",
        "_track",
        "_writer",
        "remote_text",
    )

    def __init__(
        self,
        manager: Server,
        failed: Failed,
        again: Again,
        loop: asyncio.AbstractEventLoop,
        **options: Any,
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._failed = failed
        self._track = Track(self, again)
        self._arrived = b""  # the bytes of the request that was read last, if they came at once
        self._handler = manager.request_handler
        self._writer = StreamWriter(self, loop)
        self._head_since = 0.0
        # On uvloop the first bytes may be here before `start` waits for them.
        self._started = False
        self._silent = True  # has not sent a byte yet
        self.remote_text = "127.0.0.1"

    def answer_by(self, handler: Handler) -> None:
        """Let another handler than the server's answer all requests of this connection."""
        self._handler = self._request_handler = handler

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who it is; the socket has forgotten when the last line is logged.

        The time for the first head runs from here: a client may never send a byte.
        """
        self._head_since = time.monotonic()
        peer = transport.get_extra_info("peername")
        # A Unix socket has no peer name; TorchServe shows 127.0.0.1 alone.
        if isinstance(peer, tuple):
            host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
            self.remote_text = f"/{host}:{peer[1]}"
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Feed the track or the parser, and note since when a head is incomplete."""
        track = self._track
        if track.busy:
            track.hold(data)
            return
        # Not the bytes of a body, nor the rest of a head.
        fresh = (self._silent or not self._head_since) and self._between_requests()
        if fresh:
            if self._started and not self._force_close and not self._close and track.take(data):
                return
            self._arrived = data
            # All clients but some probes spell it so.
            if b"\nHost:" not in data and b"\nhost:" not in data:
                data = with_host(data)
        else:
            self._arrived = b""
        track.leave()
        self._silent = False
        super().data_received(data)
        waiter = self._waiter
        if self._started and (waiter is None or waiter.done()):
            self._head_since = 0.0
        elif data and not self._head_since:
            self._head_since = time.monotonic()

    @property
    def track(self) -> Track:
        """What answers repeated requests."""
        return self._track

    def learn(self, exchange: Exchange) -> None:
        """The request that was read last has its answer: the next may be of its kind."""
        arrived, self._arrived = self._arrived, b""
        if arrived and _KNOWN:
            self._track.learn(arrived, exchange)

    def occupy(self, request: BaseRequest) -> None:
        """A request that is no task's is under way."""
        if self._manager is not None:
            self._manager.requests_count += 1
        self._request_in_progress = True
        self._current_request = request

    def vacate(self, response: RawResponse) -> bool:
        """It has been answered; False when the connection ends with it."""
        self.ended_request()
        if self._goes_on(response):
            return True
        if not self._force_close:
            self.close()  # what TLS may still hand in is not to be answered
            if self.transport is not None:
                self.transport.close()
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """Let whoever waits for a client that has gone know it."""
        self._track.lost()
        super().connection_lost(exc)

    def _between_requests(self) -> bool:
        return not self._messages and (self._waiter is not None or not self._started)

    async def start(self) -> None:
        """Answer requests that have arrived whole, one after another, in this very task.

        aiohttp starts a task for each request, which costs a turn of the loop. Whatever is less
        plain (a body still on its way, an upgrade, bytes that are no request) is left to it, and
        with it the rest of the connection.
        """
        self._started = True
        if self._messages:
            self._head_since = 0.0
        while _KNOWN and not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages[0]
            if not payload.is_eof() or not isinstance(message, RawRequestMessage):
                break
            if message.upgrade or self._upgraded:
                break
            self._messages.popleft()
            self._consumed()
            if not await self._answer(message, payload):
                if not self._force_close:
                    self._task_handler = None
                    if self.transport is not None:
                        self.transport.close()
                return
        await super().start()

    def _consumed(self) -> None:
        """Make room for pipelined requests in aiohttp's queue, which it bounds since 3.14."""
        taken = getattr(self._parser, "message_consumed", None)
        if taken is not None:
            taken()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()

    async def _answer(self, message: RawRequestMessage, payload: StreamReader) -> bool:
        """Answer one request; False when the connection ends with it."""
        manager, loop, task = self._manager, self._loop, self._task_handler
        if manager is None or task is None:  # the client has gone
            return False
        manager.requests_count += 1
        # Only its `drain` is used, so that one serves all requests.
        request = BaseRequest(message, payload, self, self._writer, task, loop)
        self._request_in_progress = True
        self._current_request = request
        try:
            response = await self._respond(request)
            await response.prepare(request)
        except ConnectionError:
            return False
        finally:
            self.ended_request()
        return self._goes_on(response)

    def ended_request(self) -> None:
        """None is under way any more: who waits for that, waits no longer."""
        self._current_request = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _goes_on(self, response: StreamResponse) -> bool:
        """Whether another request may come; the time for that begins now."""
        if not response.keep_alive or self._close or self._force_close:
            return False
        loop = self._loop
        self._next_keepalive_close_time = loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        return True

    def _process_keepalive(self) -> None:
        """Close what is idle. To aiohttp a connection with a request on its track looks idle."""
        if self._track.busy:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    async def _respond(self, request: BaseRequest) -> StreamResponse:
        try:
            return await self._handler(request)
        except Exception as error:  # a bug of ours: this request gets 500, the server goes on
            return self.handle_error(request, 500, error)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading, if it was paused at all.

        aiohttp calls this for every body it has read and then runs the parser over no data and
        asks the transport for nothing: a tenth of a small request's time.
        """
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def close(self) -> None:
        """Take no more requests.

        Of one that is half here the rest may come: aiohttp would throw it away and wait for it.
        """
        if draining.unfinished_body(self) is None:
            super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's
        """Let a request under way end, and close.

        Args:
            timeout: seconds; None for as long as the caller waits, unless the client is idle.
        """
        if timeout is None:
            async with draining.hurried(self):
                await draining.sent(self)
                await super().shutdown(timeout)
        else:
            await super().shutdown(timeout)
        self._track.lost()

    def expire(self, before: float) -> None:
        """Close the connection if its head has been incomplete since ``before``."""
        if self._head_since and self._head_since < before:
            log.info("%s took too long to send a request's head.", self.remote_text)
            self.force_close()

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> StreamResponse:
        """Answer what could not be parsed with 400, and an error of ours with 500 and a log entry.

        Raises:
            ConnectionResetError: nobody is there to answer; aiohttp ends the connection quietly.
        """
        transport = self.transport
        if isinstance(exc, ConnectionError) or transport is None or transport.is_closing():
            raise ConnectionResetError("The client has gone.")
        if status == 400:
            log.debug("%s sent an invalid message: %s", self.remote_text, message)
            return self._failed(request, BadRequest("Invalid HTTP message."))
        log.error("Answering a request failed.", exc_info=exc or True)
        return self._failed(request, Internal(BUG))
