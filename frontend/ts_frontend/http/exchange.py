"""One REST request as the faces see it, cut up by hand: aiohttp's own URL objects cost more than
the whole rest of the path. Made by `server`, read by every face.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from aiohttp import hdrs
from aiohttp.web import BaseRequest

from ts_frontend.errors import InvalidArgument

if TYPE_CHECKING:
    from ts_frontend.http.lane import Repeat
    from ts_frontend.http.tokens import Kind

MAX_QUERY_PAIRS = 1024  # as TorchServe: more are not looked at
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_SEPARATOR = re.compile("[&;]")
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}
_POOLED_IDS = 256


class Exchange:
    """One request: its id, its path in segments, its raw query, and whether to keep the line."""

    __slots__ = (
        "headers",
        "id",
        "keep_alive",
        "key",
        "marks",
        "method",
        "model",
        "path",
        "query",
        "repeat",
        "request",
        "started",
        "target",
        "version",
    )

    def __init__(self, request: BaseRequest, request_id: str, started: float) -> None:
        self.request = request
        self.id = request_id  # what the client gets as x-request-id
        self.method = request.method
        self.headers = request.headers
        self.target = target = request.raw_path  # the second word of the request line
        self.path, _, self.query = _origin_form(target).partition("?")
        self.keep_alive = request.keep_alive
        # What was asked for, as the client named it: for the access log.
        self.model: str | None = None
        self.version: str | None = None
        self.started = started  # of time.monotonic
        self.key: Kind | None = None  # the token that it needs
        # Set by the face where another request with this head can be answered by its body alone.
        self.repeat: Repeat | None = None
        self.marks = b""  # packed headers of our own for the handler

    def segments(self) -> list[str]:
        """Split the path as TorchServe's Java does (§4.1).

        The path is percent-decoded first, so an escaped slash separates too. The empty segment
        before the first slash stays, empty ones at the end go: ``/ping/`` is ``["", "ping"]``,
        ``/`` is ``[]``.

        Raises:
            InvalidArgument: a malformed percent escape.
        """
        path = self.path
        if "%" in path:
            path = decode(path)
        segments = path.split("/")
        while segments and not segments[-1]:
            segments.pop()
        return segments

    def header(self, name: str) -> str:
        """Return a request header, "" without it; ``name`` is best one of `aiohttp.hdrs`."""
        return self.headers.get(name, "")

    def mime_type(self) -> str:
        """Return the request's content type up to the first semicolon, exactly as sent."""
        return self.header(hdrs.CONTENT_TYPE).partition(";")[0]

    def pairs(self) -> list[tuple[str, str]]:
        """Return the query's names and values, decoded, in order.

        ``&`` and ``;`` both separate, ``+`` is a space, at most 1,024 pairs count (§4.1).

        Raises:
            InvalidArgument: a malformed percent escape.
        """
        if not self.query:
            return []
        parts = [part for part in _SEPARATOR.split(self.query) if part][:MAX_QUERY_PAIRS]
        pairs = []
        for part in parts:
            name, _, value = part.replace("+", " ").partition("=")
            pairs.append((decode(name), decode(value)))
        return pairs

    def parameters(self) -> dict[str, str]:
        """Return the query as a mapping, in which the first value of a name wins."""
        parameters: dict[str, str] = {}
        for name, value in self.pairs():
            parameters.setdefault(name, value)
        return parameters


class RequestIds:
    """Random UUIDs (version 4) from random bytes drawn in bulk: one system call for 256."""

    __slots__ = ("_ids",)

    def __init__(self) -> None:
        self._ids: list[str] = []

    def __call__(self) -> str:
        """Return a new id of 36 characters."""
        if not self._ids:
            digits = os.urandom(16 * _POOLED_IDS).hex()
            some = [digits[at : at + 32] for at in range(0, len(digits), 32)]
            self._ids = [
                f"{h[:8]}-{h[8:12]}-4{h[13:16]}-{_VARIANT[h[16]]}{h[17:20]}-{h[20:]}" for h in some
            ]
        return self._ids.pop()


def decode(text: str) -> str:
    """Percent-decode UTF-8.

    Raises:
        InvalidArgument: ``%`` without two hexadecimal digits behind it (TorchServe's 403).
    """
    if "%" not in text:
        return text
    bad = _BAD_ESCAPE.search(text)
    if bad is not None:
        raise InvalidArgument(
            f"Malformed percent escape at index {bad.start()} of: {text}. "
            "A literal % is written %25."
        )
    return unquote(text, errors="replace")


def _origin_form(target: str) -> str:
    # Proxies may send the absolute form: GET http://host/path HTTP/1.1.
    if target.startswith("/") or "://" not in target:
        return target
    rest = target.partition("://")[2]
    slash = rest.find("/")
    return rest[slash:] if slash >= 0 else "/"
