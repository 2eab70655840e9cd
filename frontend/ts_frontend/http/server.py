"""One listening socket and what happens to every request on it: route, answer, log, count.

`listeners` builds a `Listener` per address; `server` (the composition root) starts and stops them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import stat
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from aiohttp import HttpVersion, HttpVersion11
from aiohttp.web import BaseRequest, StreamResponse

from ts_frontend.config import Address
from ts_frontend.core.job import Answer
from ts_frontend.errors import Internal, ServeError
from ts_frontend.http.connection import BUG, Connection
from ts_frontend.http.door import Door
from ts_frontend.http.exchange import Exchange, RequestIds
from ts_frontend.http.lane import Lane
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import Router
from ts_frontend.http.web_server import WebServer
from ts_frontend.log_text import one_line

log = logging.getLogger(__name__)

# An idle connection lives longer here than at the load balancers in front (60 s to 600 s): when
# the server closes first, a request that is just on its way is lost.
KEEP_ALIVE_SECONDS = 620.0
# For a request's head once its first byte is here; nobody needs that long in good faith.
HEAD_SECONDS = 30.0
# Presigned URLs as a query parameter, and tokens and cookies of large sites, fit.
MAX_LINE = 8190
BACKLOG = 1024
# A refused body is read on for so long: closing at once would reset the connection, and the
# client might never see why it was refused.
LINGER_SECONDS = 5.0
ONLY_HTTPS = "This TorchServe instance only accepts HTTPS requests"
# For each step of ending what is left when the grace is over: a handler may clean up.
CUT_SECONDS = 0.5


class BindError(OSError):
    """A listener's address can't be used; the message says which, why, and what to do."""


class Listener:
    """Serves one address.

    Args:
        address: a port of 0 takes any free one, see `port`.
        router: who answers.
        respond: how errors are answered.
        access: takes the access log's lines, and what they are made of.
        count: takes each response's status.
        ids: gives each request its x-request-id.
        tls: for an https address.
    """

    def __init__(
        self,
        address: Address,
        router: Router,
        respond: Responder,
        *,
        access: Callable[[str, Sequence[object]], None],
        count: Callable[[int], None],
        ids: RequestIds,
        tls: ssl.SSLContext | None = None,
        keep_alive: float = KEEP_ALIVE_SECONDS,
        head_timeout: float = HEAD_SECONDS,
    ) -> None:
        self.address = address
        self.port = address.port
        self._router = router
        self._respond = respond
        self._access = access
        self._count = count
        self._ids = ids
        self._tls = tls
        self._keep_alive = keep_alive
        self._head_timeout = head_timeout
        self._web: WebServer | None = None
        self._server: asyncio.Server | Door | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and listen.

        Raises:
            BindError: the address is in use, not ours, or may not be bound.
        """
        loop = asyncio.get_running_loop()
        self._web = WebServer(
            self._handle,
            self._failed,
            self._again,
            access_log=None,
            logger=log,
            keepalive_timeout=self._keep_alive,
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
            max_line_size=MAX_LINE,
            max_field_size=MAX_LINE,
        )
        try:
            self._server = await self._bind(loop, self._web)
        except OSError as error:
            raise BindError(
                f"Cannot listen on {self.address}: {error.strerror or error}. "
                "Stop what uses it, or set another inference_address, management_address or "
                "metrics_address in the configuration."
            ) from error
        if self.address.scheme != "unix":
            self.port = self._server.sockets[0].getsockname()[1]
        self._sweeper = loop.create_task(self._sweep(self._web))

    async def stop(self, grace: float = 30.0) -> None:
        """Accept nothing more, let requests under way finish for ``grace`` seconds, and close."""
        self._respond.end_connections()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
        if self._server is None or self._web is None:
            return
        self._server.close()
        self._web.pre_shutdown()
        await self._end(self._web, self._server, grace)
        # Closed connections let go of their sockets in the loop's next turn.
        await asyncio.sleep(0)
        if self.address.scheme == "unix" and self.address.path:
            with contextlib.suppress(OSError):
                os.unlink(self.address.path)

    async def _end(self, web: WebServer, server: asyncio.Server | Door, grace: float) -> None:
        transports = [one.transport for one in web.connections if one.transport is not None]
        # aiohttp waits its timeout twice, once before and once behind cancelling the handler.
        try:
            async with asyncio.timeout(grace):
                await web.shutdown(None)
        except TimeoutError:
            log.warning("%s: requests did not end within %s s, they are cut off", self, grace)
            await web.shutdown(CUT_SECONDS)
        try:
            async with asyncio.timeout(CUT_SECONDS):
                await server.wait_closed()
        except TimeoutError:  # clients that don't read what they asked for
            for transport in transports:
                transport.abort()

    def __str__(self) -> str:
        return str(self.address)

    async def _bind(self, loop: asyncio.AbstractEventLoop, web: WebServer) -> asyncio.Server | Door:
        address = self.address
        if address.scheme == "unix" and address.path:
            _clear_stale(address.path)
            return await loop.create_unix_server(web, address.path, backlog=BACKLOG)
        if self._tls is not None:
            plain = web.answered_by(self._refuse_plain)
            door = Door(web, plain, self._tls, self._head_timeout)
            await door.open(address.host, address.port, BACKLOG)
            return door
        return await loop.create_server(
            web, address.host, address.port, backlog=BACKLOG, reuse_address=True
        )

    async def _handle(self, request: BaseRequest) -> StreamResponse:
        exchange = self._exchange(request)
        try:
            response = await self._router.answer(exchange)
        except ServeError as error:
            response = self._respond.error(exchange, error)
        self._record(exchange, response)
        connection = request.protocol
        if response.keep_alive and isinstance(connection, Connection):
            connection.learn(exchange)
        return response

    def _again(self, connection: Connection, road: Lane, body: bytes) -> None:
        """Answer a request that differs from an earlier one of its connection in its body only."""
        exchange = road.exchange
        exchange.id, exchange.started = self._ids(), time.monotonic()
        exchange.model = exchange.version = None  # the log has them once the body could be read
        answered = partial(self._answered, connection, exchange)
        try:
            self._router.check(exchange)
            pending = road.repeat(exchange, road.headers(body), body, answered)
        except ServeError as error:
            answered(error)
        except Exception as error:  # a bug of ours: this request gets 500, the server goes on
            answered(_bug(error))
        else:
            connection.track.waits(pending)

    def _answered(
        self, connection: Connection, exchange: Exchange, outcome: Answer | ServeError
    ) -> None:
        """Send what the model said. Raises nothing: the core is in the middle of its work."""
        try:
            response = self._response(exchange, outcome)
            self._record(exchange, response)
            connection.track.answered(response)
        except Exception:
            log.exception("Answering a request failed.")
            connection.force_close()

    def _response(self, exchange: Exchange, outcome: Answer | ServeError) -> RawResponse:
        if isinstance(outcome, ServeError):
            return self._respond.error(exchange, outcome)
        try:
            return self._respond.answer(exchange, outcome)
        except Exception as error:
            if outcome.chunks is not None:
                outcome.chunks.close()
            told = error if isinstance(error, ServeError) else _bug(error)
            return self._respond.error(exchange, told)

    async def _refuse_plain(self, request: BaseRequest) -> StreamResponse:
        exchange = self._exchange(request)
        response = self._respond.json(exchange, {"status": ONLY_HTTPS}, 403)
        self._record(exchange, response)
        return response

    def _failed(self, request: BaseRequest, error: ServeError) -> RawResponse:
        exchange = self._exchange(request)
        version = request.version
        if exchange.method == "UNKNOWN":  # TorchServe logs so what it can't parse
            exchange.method, version = "GET", HttpVersion11
        response = self._respond.error(exchange, error)
        self._record(exchange, response, version)
        return response

    def _exchange(self, request: BaseRequest) -> Exchange:
        return Exchange(request, self._ids(), time.monotonic())

    def _record(
        self, exchange: Exchange, response: RawResponse, version: HttpVersion | None = None
    ) -> None:
        """Leave the request in access log and counters; a stream's at its first chunk."""
        protocol = exchange.request.protocol
        remote = protocol.remote_text if isinstance(protocol, Connection) else ""
        target = exchange.target
        if not target.isascii():
            target = one_line(target.encode("utf-8", "replace").decode())
        method, status = exchange.method, response.status
        version = version or exchange.request.version
        # One of aiohttp's constants, all but always.
        spoken = "HTTP/1.1" if version is HttpVersion11 else "HTTP/{}.{}".format(*version)
        ms = int((time.monotonic() - exchange.started) * 1000)
        id, model, asked = exchange.id, exchange.model, exchange.version
        self._access(
            f'{remote} "{method} {target} {spoken}" {status} {ms}',
            (remote, method, target, spoken, status, ms, id, model, asked),  # `logs.ACCESS_FIELDS`
        )
        self._count(status)

    async def _sweep(self, web: WebServer) -> None:
        while True:
            await asyncio.sleep(self._head_timeout / 4)
            before = time.monotonic() - self._head_timeout
            for connection in web.connections:
                if isinstance(connection, Connection):
                    connection.expire(before)


def _bug(error: Exception) -> ServeError:
    log.error("Answering a request failed.", exc_info=error)
    return Internal(BUG)


def _clear_stale(path: str) -> None:
    """Remove a socket file that nobody listens on any more.

    Raises:
        OSError: a server is listening, or the path is something else than a socket.
    """
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise FileExistsError(17, "There is a file of that name")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink()
            return
    raise OSError(98, "Another server listens there")
