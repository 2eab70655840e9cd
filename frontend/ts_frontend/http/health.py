"""What never needs a token: /ping, /livez, /readyz, /models/{m}/ready and the API descriptions
(reference §4.3).

Probes of load balancers and orchestrators cannot send a token, so TorchServe's check on /ping is
mended on purpose. First face of every listener.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ts_frontend.errors import MethodNotAllowed
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import NOT_ALLOWED, Handler


class HealthFace:
    """Health of the server and the description of a listener.

    Args:
        healthy: the ping rule.
        missing: what keeps the server from being ready, one line each.
        model_missing: the same for a model and a version, or None for its default one.
        document: the listener's OpenAPI description.
        ping: False where TorchServe has no /ping: on management and metrics.
    """

    token = None

    def __init__(
        self,
        respond: Responder,
        healthy: Callable[[], bool],
        missing: Callable[[], list[str]],
        model_missing: Callable[[str, str | None], list[str]],
        document: Mapping[str, object],
        *,
        ping: bool,
    ) -> None:
        self._respond = respond
        self._healthy = healthy
        self._missing = missing
        self._model_missing = model_missing
        self._document = document
        self._routes: dict[str, Handler] = {"livez": self._live, "readyz": self._ready}
        if ping:
            self._routes["ping"] = self._ping

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim `/`, `/api-description` and the probes."""
        if len(segments) < 2:
            return self._describe if method == "OPTIONS" else self._refuse
        if segments[1] == "api-description":
            return self._describe if len(segments) == 2 else None
        if segments[1] == "models" and segments[-1] == "ready" and len(segments) in (4, 5):
            # Only to be read: a version may have that name.
            return self._model_ready if method in ("GET", "HEAD") else None
        # /ping/anything is /ping too.
        return self._routes.get(segments[1])

    async def _describe(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        return self._respond.json(exchange, self._document)

    async def _refuse(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        raise MethodNotAllowed(NOT_ALLOWED)

    async def _ping(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if self._healthy():
            return self._respond.json(exchange, {"status": "Healthy"})
        return self._respond.json(exchange, {"status": "Unhealthy"}, 500)

    async def _live(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        return self._respond.json(exchange, {"status": "Alive"})

    async def _ready(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        return self._readiness(exchange, self._missing())

    async def _model_ready(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        version = segments[3] if len(segments) == 5 else None
        return self._readiness(exchange, self._model_missing(segments[2], version))

    def _readiness(self, exchange: Exchange, missing: list[str]) -> RawResponse:
        if not missing:
            return self._respond.json(exchange, {"status": "Ready"})
        return self._respond.json(exchange, {"status": "Not ready", "missing": missing}, 503)
