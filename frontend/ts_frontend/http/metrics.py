"""The metrics API: /metrics in Prometheus text (reference §6.1). It never needs a token."""

from __future__ import annotations

from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import Handler
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.text import CONTENT_TYPE

_HEADERS = b"content-type: " + CONTENT_TYPE + b"\r\n"


class MetricsFace:
    """Shows the recorder's registry, in every `metrics_mode` (mended: TorchServe's log mode was
    empty here)."""

    token = None

    def __init__(self, recorder: Recorder, respond: Responder) -> None:
        self._recorder = recorder
        self._respond = respond

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim /metrics and all below it, for any method."""
        return self._render if segments[1] == "metrics" else None

    async def _render(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        names = [value for name, value in exchange.pairs() if name == "name[]"]
        return self._respond.raw(exchange, 200, _HEADERS, await self._recorder.page(names))
