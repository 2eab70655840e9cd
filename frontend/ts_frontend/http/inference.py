"""The inference API: predictions, explanations and their other spellings (reference §4.2).

Turns a request into a row and gives it to `core.inference`.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from urllib.parse import quote

from ts_frontend.core.inference import Inference, Pending
from ts_frontend.core.job import Kind as JobKind
from ts_frontend.core.job import Sink
from ts_frontend.errors import BadRequest, ResourceNotFound
from ts_frontend.http import openapi
from ts_frontend.http.body import BodyReader, parameters
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import NOT_FOUND, Handler
from ts_frontend.http.tokens import Kind
from ts_worker.messages import Param, Request

NEEDS_MODEL = "Parameter model_name is required."
_EXPLAIN = {False: b"explain\0False", True: b"explain\0True"}


class InferenceFace:
    """Everything a client of a model can ask."""

    token: Kind | None = "inference"

    def __init__(self, inference: Inference, respond: Responder, bodies: BodyReader) -> None:
        self._inference = inference
        self._respond = respond
        self._bodies = bodies
        self._routes: dict[str, Handler] = {
            "predictions": self._predict,
            "explanations": self._predict,
            "invocations": self._invoke,
        }

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim the prediction routes; the method matters for OPTIONS only."""
        handler = self._routes.get(segments[1])
        if handler is not None:
            return handler
        count, last = len(segments), segments[-1]
        if segments[1] == "models" and count == 4:
            # On a shared port /models/{name}/{version} belongs to the management API.
            return self._invoke_model if last == "invoke" else None
        if count == 4 and segments[1:3] == ["v1", "models"]:
            return self._kserve1 if ":predict" in last or ":explain" in last else None
        if count == 5 and segments[1:3] == ["v2", "models"]:
            return self._kserve2 if last in ("infer", "explain") else None
        if last == "predict" and count in (3, 4):
            return self._legacy
        return None

    async def _predict(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if len(segments) < 3:
            raise ResourceNotFound(NOT_FOUND)
        model = segments[2]
        version = segments[3] if len(segments) > 3 else None
        if exchange.method == "OPTIONS":
            self._inference.find(model, version)
            return self._respond.json(exchange, openapi.model(model))
        rest = "/".join(segments[4:])
        marks = _EXPLAIN[segments[1] == "explanations"] + b"\0url_path\0"
        # Percent-decoded text may hold what a packed header can't.
        marks += (quote(rest, safe="/ ") if "\0" in rest else rest).encode("utf-8", "replace")
        exchange.repeat = partial(self._repeat, model, version)
        row = parameters(exchange, await self._bodies.read(exchange))
        return await self._ask(exchange, model, version, row, marks)

    async def _kserve1(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        model, _, verb = segments[3].partition(":")
        row = parameters(exchange, await self._bodies.read(exchange))
        return await self._ask(exchange, model, None, row, _EXPLAIN[verb == "explain"])

    async def _kserve2(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        row = parameters(exchange, await self._bodies.read(exchange))
        marks = _EXPLAIN[segments[4] == "explain"]
        return await self._ask(exchange, segments[3], None, row, marks)

    async def _invoke(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        """SageMaker's route: the model comes from the query, the start-up, or a form field."""
        if len(segments) > 2:
            raise ResourceNotFound(NOT_FOUND)
        row = await self._row_with_query(exchange)
        model = exchange.parameters().get("model_name") or self._inference.startup_model()
        if not model:
            named = (bytes(p.value) for p in row if p.name == "model_name")
            model = next(named, b"").decode("utf-8", "replace")
        if not model:
            raise BadRequest(NEEDS_MODEL)
        return await self._ask(exchange, model, None, row, b"")

    async def _invoke_model(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        row = await self._row_with_query(exchange)
        return await self._ask(exchange, segments[2], None, row, b"")

    async def _legacy(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        version = segments[2] if len(segments) == 4 else None
        row = await self._row_with_query(exchange)
        return await self._ask(exchange, segments[1], version, row, b"")

    async def _row_with_query(self, exchange: Exchange) -> tuple[Param, ...]:
        query = tuple(Param(name, "", value.encode()) for name, value in exchange.pairs())
        return query + parameters(exchange, await self._bodies.read(exchange))

    async def _ask(
        self,
        exchange: Exchange,
        model: str,
        version: str | None,
        row: tuple[Param, ...],
        marks: bytes,
    ) -> RawResponse:
        """Run the row; ``marks`` are packed headers of our own, behind the client's."""
        exchange.model, exchange.version, exchange.marks = model, version, marks
        parts = [*chain.from_iterable(exchange.request.raw_headers)]
        if marks:
            parts.append(marks)
        request = Request(exchange.id.encode(), b"\0".join(parts), row)
        answer = await self._inference.predict(model, version, request, _kind(marks))
        try:
            return self._respond.answer(exchange, answer)
        except BaseException:
            if answer.chunks is not None:
                await answer.chunks.aclose()
            raise

    def _repeat(
        self,
        model: str,
        version: str | None,
        exchange: Exchange,
        headers: bytes,
        body: bytes,
        sink: Sink,
    ) -> Pending:
        """Run a row that differs from the last one of this exchange in its body only."""
        self._bodies.check(body)
        row = parameters(exchange, body)
        exchange.model, exchange.version = model, version
        request = Request(exchange.id.encode(), headers, row)
        return self._inference.submit(model, version, request, sink, _kind(exchange.marks))


def _kind(marks: bytes) -> JobKind:
    return "explain" if marks.startswith(_EXPLAIN[True]) else "predict"
