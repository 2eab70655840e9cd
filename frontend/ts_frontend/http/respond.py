"""Builds the head of every response in exactly TorchServe's format (reference §4.5-4.8).

Each listener has one `Responder`; every face answers through it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus

from aiohttp import HttpVersion11

from ts_frontend.core.job import Answer, Stream
from ts_frontend.errors import Internal, ServeError
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.response import RawResponse, StreamedResponse
from ts_worker.messages import Buffer

JSON = b"content-type: application/json\r\n"
_FIXED = (
    b"\r\nPragma: no-cache"
    b"\r\nCache-Control: no-cache; no-store, must-revalidate, private"
    b"\r\nExpires: Thu, 01 Jan 1970 00:00:00 UTC\r\n"
)
_KEEP = b"connection: keep-alive\r\n\r\n"
_CLOSE = b"connection: close\r\n\r\n"
# Ours to say: TorchServe overruled a handler that set them, and two would break the framing.
_RESERVED = frozenset(
    b"content-length transfer-encoding connection x-request-id pragma cache-control expires".split()
)
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_BODILESS = frozenset((204, 304))
_REASONS = {status.value: status.phrase for status in HTTPStatus}
# netty's phrase; Python's own changed with 3.13.
_REASONS[413] = "Request Entity Too Large"


class Responder:
    """Builds the responses of one listener.

    Args:
        cors: `access-control-allow-*` names (lower case) and values, added to every response
            unless a handler has set them itself.
    """

    def __init__(self, cors: Iterable[tuple[str, str]] = ()) -> None:
        self._cors = tuple((name.encode(), value.encode("utf-8")) for name, value in cors)
        self._fixed = _FIXED + _lines(self._cors)
        self._ending = False

    def end_connections(self) -> None:
        """From now on each answer, that of a request under way too, is its connection's last."""
        self._ending = True

    def json(self, exchange: Exchange, value: object, status: int = 200) -> RawResponse:
        """Answer with pretty JSON and one line feed, as all that the server itself says."""
        return self.raw(exchange, status, JSON, _pretty(value))

    def error(self, exchange: Exchange, error: ServeError) -> RawResponse:
        """Answer with TorchServe's error shape; the connection is closed behind all but a few."""
        # A worker's error may carry any number; only an error status may be sent with it.
        status = error.status if 400 <= error.status <= 599 else 500
        body = _error_body(status, error.type, error.message, error.reason)
        reason = _REASONS.get(status, "").encode()
        closes = error.closes
        return self._whole(exchange, status, reason, JSON, self._fixed, body, closes=closes)

    def raw(self, exchange: Exchange, status: int, headers: bytes, body: Buffer) -> RawResponse:
        """Answer with these header lines (each ended by CR LF), bytes and the usual phrase."""
        reason = _REASONS.get(status, "").encode()
        return self._whole(exchange, status, reason, headers, self._fixed, body)

    def answer(self, exchange: Exchange, answer: Answer) -> RawResponse:
        """Answer with what a model said: status, phrase, headers and bytes are the handler's.

        There is no Content-Type unless the handler chose one, and no phrase either (§4.5).

        Raises:
            Internal: the handler set a status or header that can't be sent.
        """
        status = answer.status
        if not 200 <= status <= 599:
            raise Internal(
                f"The handler set the response status {status}; use one from 200 to 599."
            )
        reason, headers, fixed = b"", b"", self._fixed
        if answer.reason:
            reason = answer.reason.encode("utf-8", "replace")
            _refuse_breaks(reason, "phrase")
        if answer.headers:
            headers, fixed = self._handler_headers(answer.headers)
        if answer.chunks is None:
            return self._whole(exchange, status, reason, headers, fixed, answer.body)
        return self._streamed(exchange, answer, answer.chunks, reason, headers, fixed)

    def _whole(
        self,
        exchange: Exchange,
        status: int,
        reason: bytes,
        headers: bytes,
        fixed: bytes,
        body: Buffer,
        *,
        closes: bool | None = None,
    ) -> RawResponse:
        if closes is None:
            closes = status >= 400
        keep_alive = exchange.keep_alive and not closes and not self._ending
        bodiless = status in _BODILESS
        head = b"HTTP/1.1 %d %b\r\n%bx-request-id: %b%b%b%b" % (
            status,
            reason,
            headers,
            exchange.id.encode(),
            fixed,
            b"" if bodiless else b"content-length: %d\r\n" % len(body),
            _KEEP if keep_alive else _CLOSE,
        )
        if bodiless or exchange.method == "HEAD":
            body = b""
        return RawResponse(status, head, body, keep_alive)

    def _streamed(
        self,
        exchange: Exchange,
        answer: Answer,
        stream: Stream,
        reason: bytes,
        headers: bytes,
        fixed: bytes,
    ) -> RawResponse:
        chunked = exchange.request.version >= HttpVersion11
        keep_alive = exchange.keep_alive and answer.status < 400 and chunked and not self._ending
        if b"ts_stream_next:" not in headers:
            headers += b"ts_stream_next: true\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bx-request-id: %b%b%b%b" % (
            answer.status,
            reason,
            headers,
            exchange.id.encode(),
            fixed,
            b"transfer-encoding: chunked\r\n" if chunked else b"",
            _KEEP if keep_alive else _CLOSE,
        )
        return StreamedResponse(
            answer.status,
            head,
            answer.body,
            stream,
            keep_alive=keep_alive,
            chunked=chunked,
            silent=exchange.method == "HEAD",
        )

    def _handler_headers(self, packed: bytes) -> tuple[bytes, bytes]:
        _refuse_breaks(packed, "header")
        parts = packed.split(b"\0")
        pairs = [
            (name, value)
            for name, value in zip(parts[::2], parts[1::2], strict=True)
            if name.lower() not in _RESERVED
        ]
        for name, _ in pairs:
            if not _TOKEN.fullmatch(name):  # a client would stop reading headers there
                shown = name.decode("utf-8", "replace")
                raise Internal(f"The handler set a response header {shown!r}, which is no name.")
        fixed = self._fixed
        if self._cors:
            chosen = {name.lower() for name, _ in pairs}
            fixed = _FIXED + _lines(pair for pair in self._cors if pair[0] not in chosen)
        return _lines(pairs), fixed


def _pretty(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")


@lru_cache(maxsize=64)
def _error_body(status: int, type: str, message: str, reason: str | None) -> bytes:
    # Kept, because refusals come by the thousand and say the same.
    body: dict[str, object] = {"code": status, "type": type}
    if message:
        body["message"] = message
    if reason is not None:
        body["reason"] = reason
    return _pretty(body)


def _lines(pairs: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % pair for pair in pairs])


def _refuse_breaks(text: bytes, what: str) -> None:
    # A line break in a value taken from a request would let a client write headers of its own.
    if b"\r" in text or b"\n" in text:
        raise Internal(f"The handler set a response {what} with a line break in it.")
