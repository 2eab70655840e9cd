"""The endpoints of installed plugins, tried before the server's own paths as in TorchServe.

`listeners` makes one face for each listener that plugins have something on, and none without.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from functools import partial
from http import HTTPStatus

from aiohttp import hdrs

from ts_frontend.config import ConfigError
from ts_frontend.core.job import Answer
from ts_frontend.endpoints import Installed
from ts_frontend.errors import Internal, MethodNotAllowed, ServeError
from ts_frontend.http.body import BodyReader
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import NOT_ALLOWED, Handler
from ts_frontend.http.tokens import Tokens
from ts_frontend.plugins import Request, Response
from ts_worker.messages import pack_headers

log = logging.getLogger(__name__)

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class PluginFace:
    """What plugins serve on one listener.

    Args:
        tokens: each endpoint that wants one checks the token of its own API.

    Raises:
        ConfigError: two endpoints have one path.
    """

    token = None

    def __init__(
        self,
        installed: Sequence[Installed],
        respond: Responder,
        bodies: BodyReader,
        tokens: Tokens | None,
    ) -> None:
        self._respond = respond
        self._bodies = bodies
        self._tokens = tokens
        self._handlers: dict[str, Handler] = {}
        taken: dict[str, str] = {}
        for one in installed:
            path = one.endpoint.path
            if path in taken:
                raise ConfigError(
                    f"{one.origin}: {path} is served by {taken[path]} already: uninstall one"
                )
            taken[path] = one.origin
            self._handlers[path] = partial(self._answer, one)
        self._longest = max((path.count("/") for path in taken), default=0) + 1

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim the plugins' paths and all below them; the longest counts."""
        for end in range(min(len(segments), self._longest), 1, -1):
            handler = self._handlers.get("/".join(segments[:end]))
            if handler is not None:
                return handler
        return None

    async def _answer(
        self, installed: Installed, exchange: Exchange, segments: list[str]
    ) -> RawResponse:
        endpoint = installed.endpoint
        if endpoint.token and self._tokens is not None:
            self._tokens.check(endpoint.listener, exchange.header(hdrs.AUTHORIZATION))
        method = exchange.method
        if method not in endpoint.methods and not (method == "HEAD" and "GET" in endpoint.methods):
            raise MethodNotAllowed(NOT_ALLOWED)
        request = Request(
            method,
            tuple(segments[1:]),
            tuple(exchange.pairs()),
            exchange.headers,
            await self._bodies.read(exchange),
            exchange.id,
        )
        try:
            return self._respond.answer(exchange, _packed(await endpoint.handle(request)))
        except ServeError:  # its own way to say no
            raise
        except (Exception, SystemExit, asyncio.CancelledError):
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the client has gone, or the server ends
                raise
            # A bug of the plugin costs this request only.
            log.exception("%s %s failed (%s)", method, endpoint.path, installed.origin)
            raise Internal(
                f"The plugin behind {endpoint.path} failed; the server's log holds the cause."
            ) from None


def _packed(response: Response) -> Answer:
    """Check what a plugin answers as thoroughly as what a client sends.

    Raises:
        TypeError, ValueError: it can't be sent; says why.
    """
    if not isinstance(response, Response):
        raise TypeError(f"expected a Response, not {type(response).__name__}")
    if not isinstance(response.body, bytes):
        raise TypeError(f"expected bytes as the body, not {type(response.body).__name__}")
    if not 200 <= response.status <= 599:
        raise ValueError(f"status {response.status}: expected 200 to 599")
    for name, value in response.headers:
        if not _NAME.fullmatch(name) or set(value) & set("\r\n\0"):
            raise ValueError(f"header {name!r}: {value!r} cannot be sent")
    reason = _REASONS.get(response.status, "")
    return Answer(response.status, reason, pack_headers([*response.headers]), response.body)
