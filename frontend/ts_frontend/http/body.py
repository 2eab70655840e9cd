"""Reads request bodies and turns them into the rows' parameters (reference §4.4).

`inference` and `management` call it. Small bodies have arrived with their head and are taken
without waiting.
"""

from __future__ import annotations

import asyncio
import re
from urllib.parse import unquote_to_bytes

from aiohttp import StreamReader, hdrs
from aiohttp.web import RequestPayloadError

from ts_frontend.errors import BadRequest, RequestTimeout, TooLarge
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.multipart import boundary_of, split_parts
from ts_worker.messages import Param

# Between two pieces of a body: long enough for a phone in a tunnel, short enough that idle
# half-sent requests don't pile up.
BODY_IDLE_SECONDS = 120.0
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """Reads bodies up to a size.

    Args:
        max_size: `max_request_size` in bytes; 0 for no limit.
        idle: seconds to wait for the next piece.
    """

    __slots__ = ("_idle", "_max_size")

    def __init__(self, max_size: int, idle: float = BODY_IDLE_SECONDS) -> None:
        self._max_size = max_size
        self._idle = idle

    async def read(self, exchange: Exchange) -> bytes:
        """Return the whole body, b"" without one.

        Raises:
            TooLarge: by its Content-Length before anything is read, else as soon as it is.
            RequestTimeout: the client stopped sending.
            BadRequest: the body's framing is broken.
        """
        payload = exchange.request.content
        if payload.is_eof():
            # A payload that failed has ended too; reading then raises what went wrong.
            body = await _next(payload) if payload.exception() else payload.read_nowait(-1)
            self.check(body)
            return body
        return await self._gather(exchange, payload)

    def check(self, body: bytes) -> None:
        """Raise `TooLarge` for a whole body that is."""
        if self._max_size and len(body) > self._max_size:
            raise self._too_large(len(body))

    async def _gather(self, exchange: Exchange, payload: StreamReader) -> bytes:
        announced = exchange.headers.get(hdrs.CONTENT_LENGTH)
        if announced is not None and self._max_size and int(announced) > self._max_size:
            raise self._too_large(int(announced))
        # aiohttp's low-level server leaves this to us; curl waits a second for it.
        transport = exchange.request.transport
        if transport and exchange.header(hdrs.EXPECT).lower() == "100-continue":
            transport.write(_CONTINUE)
        pieces: list[bytes] = []
        size = 0
        while not payload.at_eof():
            try:
                async with asyncio.timeout(self._idle):
                    piece = await _next(payload)
            except TimeoutError:
                raise RequestTimeout(
                    f"The request body stopped arriving for {self._idle:g} seconds."
                ) from None
            pieces.append(piece)
            size += len(piece)
            if self._max_size and size > self._max_size:
                raise self._too_large(size)
        return b"".join(pieces)

    def _too_large(self, size: int) -> TooLarge:
        return TooLarge(
            f"The request body has {size} bytes or more, the limit is {self._max_size}: "
            "raise max_request_size in config.properties."
        )


async def _next(payload: StreamReader) -> bytes:
    try:
        return await payload.readany()
    except RequestPayloadError as error:
        raise BadRequest("Invalid HTTP message.") from error


def parameters(exchange: Exchange, body: bytes) -> tuple[Param, ...]:
    """Cut a body into the row's keys by the request's Content-Type (§4.4).

    Raises:
        BadRequest: a form that can't be parsed.
    """
    content_type = exchange.header(hdrs.CONTENT_TYPE)
    mime, _, rest = content_type.partition(";")
    # No shorter type is a form; this spares JSON and images the comparisons.
    if len(mime) >= len("multipart/form-data"):
        plain = mime.strip().lower()
        if plain == "application/x-www-form-urlencoded":
            return urlencoded(body)
        if plain == "multipart/form-data":
            boundary = boundary_of(rest)
            if boundary:
                return tuple(split_parts(body, boundary))
    return (Param("body", mime, body),)


def urlencoded(body: bytes) -> tuple[Param, ...]:
    """Cut a form body into fields; a piece without ``=`` is a field with an empty value.

    Raises:
        BadRequest: a malformed percent escape.
    """
    bad = _BAD_ESCAPE.search(body)
    if bad is not None:
        raise BadRequest(
            f"Malformed percent escape at byte {bad.start()} of the form body. "
            "Send raw data with a Content-Type of its own, such as application/octet-stream."
        )
    fields = []
    for piece in body.replace(b"+", b" ").split(b"&"):
        if piece:
            name, _, value = piece.partition(b"=")
            decoded = unquote_to_bytes(name).decode("utf-8", "replace")
            fields.append(Param(decoded, "", unquote_to_bytes(value)))
    return tuple(fields)
