"""Makes the connections of a listener. `server` has one for each address."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp.web import Server

from ts_frontend.http.connection import Connection, Failed, Handler
from ts_frontend.http.lane import Again


class WebServer(Server):
    """aiohttp's low-level server, making `Connection`s."""

    def __init__(
        self,
        handler: Handler,
        failed: Failed,
        again: Again,
        **options: Any,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._failed = failed
        self._again = again
        self._options = options

    def __call__(self) -> Connection:
        return Connection(self, self._failed, self._again, self._loop, **self._options)

    def answered_by(self, handler: Handler) -> Callable[[], Connection]:
        """Return what makes connections that are answered by another handler than the rest."""

        def make() -> Connection:
            connection = self()
            connection.answer_by(handler)
            return connection

        return make
