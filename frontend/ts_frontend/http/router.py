"""Finds who answers a request: tries a listener's faces in TorchServe's order (reference §4.1).

`server` calls `Router.find` once per request; the faces are `health`, `inference`, `management`
and `metrics`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from aiohttp import hdrs

from ts_frontend.errors import ResourceNotFound
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.response import RawResponse
from ts_frontend.http.tokens import Kind, Tokens

NOT_FOUND = "Requested resource is not found, please refer to API document."
NOT_ALLOWED = "Requested method is not allowed, please refer to API document."

Handler = Callable[[Exchange, list[str]], Awaitable[RawResponse]]


class Face(Protocol):
    """One API: it knows its paths and answers them."""

    @property
    def token(self) -> Kind | None:
        """The key a client needs here; None for what is open to all."""

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Return what answers this path, or None to let the next face try."""


class Router:
    """The faces of one listener, and the token check before them.

    Args:
        faces: tried in this order.
        tokens: None when authorization is disabled.
    """

    def __init__(self, faces: Sequence[Face], tokens: Tokens | None) -> None:
        self._faces = tuple(faces)
        self._tokens = tokens
        # Without a token nobody learns which paths exist.
        self._unknown: Kind | None = next((face.token for face in faces if face.token), None)

    async def answer(self, exchange: Exchange) -> RawResponse:
        """Check the token and let the face that knows the path answer.

        Raises:
            InvalidKey: the face needs a token and the request has no valid one.
            ResourceNotFound: no face knows the path.
            InvalidArgument: the path has a malformed escape.
        """
        segments = exchange.segments()
        for face in self._faces:
            handler = face.find(exchange.method, segments)
            if handler is not None:
                exchange.key = face.token
                self.check(exchange)
                return await handler(exchange, segments)
        exchange.key = self._unknown
        self.check(exchange)
        raise ResourceNotFound(NOT_FOUND)

    def check(self, exchange: Exchange) -> None:
        """Check the token of a request whose face is known.

        Raises:
            InvalidKey: it is missing, wrong or expired.
        """
        if exchange.key is not None and self._tokens is not None:
            self._tokens.check(exchange.key, exchange.header(hdrs.AUTHORIZATION))
