"""One client's connection: aiohttp's HTTP/1.1 protocol with our errors and a deadline for heads.

`server` makes one per accepted socket.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp.web import BaseRequest, RequestHandler, Server, StreamResponse

from ts_frontend.errors import BadRequest, Internal, ServeError
from ts_frontend.http.response import RawResponse

log = logging.getLogger(__name__)

# Answers a request that failed outside the faces; the request may be aiohttp's stand-in for one
# that could not be parsed.
Failed = Callable[[BaseRequest, ServeError], RawResponse]


class Connection(RequestHandler):
    """aiohttp's request loop, less its plain-text error pages.

    Attributes:
        remote_text: the client as the access log shows it, ``/127.0.0.1:53514``.
    """

    __slots__ = ("_failed", "_head_since", "remote_text")

    def __init__(
        self, manager: WebServer, failed: Failed, loop: asyncio.AbstractEventLoop, **options: Any
    ) -> None:
        super().__init__(manager, loop=loop, **options)
        self._failed = failed
        self._head_since = 0.0
        self.remote_text = "127.0.0.1"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember who it is; the socket has forgotten when the last line is logged."""
        peer = transport.get_extra_info("peername")
        # A Unix socket has no peer name; TorchServe shows 127.0.0.1 alone.
        if isinstance(peer, tuple):
            host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
            self.remote_text = f"/{host}:{peer[1]}"
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, and note since when a head is incomplete."""
        super().data_received(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            self._head_since = 0.0
        elif data and not self._head_since:
            self._head_since = time.monotonic()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on reading, if it was paused at all.

        aiohttp calls this for every body it has read and then runs the parser over no data and
        asks the transport for nothing: a tenth of a small request's time.
        """
        if self._reading_paused:
            super().resume_reading(resume_parser)

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
        return self._failed(
            request, Internal("The server failed to answer; its log holds the cause.")
        )


class WebServer(Server):
    """aiohttp's low-level server, making `Connection`s."""

    def __init__(
        self,
        handler: Callable[[BaseRequest], Awaitable[StreamResponse]],
        failed: Failed,
        **options: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._failed = failed
        self._options = options

    def __call__(self) -> RequestHandler:
        return Connection(self, self._failed, self._loop, **self._options)
