"""The management API: register, scale, describe, list, unregister, default, tokens (§5).

Turns parameters into calls of `core.management`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from aiohttp import hdrs

from ts_frontend.core.changes import NOT_AWAITED, NOT_REGISTERED
from ts_frontend.core.management import Management, Outcome, Registration
from ts_frontend.errors import BadRequest, MethodNotAllowed
from ts_frontend.http import openapi
from ts_frontend.http.arguments import Arguments, lenient_json, page
from ts_frontend.http.body import BodyReader
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import JSON, Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import NOT_ALLOWED, Handler
from ts_frontend.http.tokens import Kind, Tokens


class ManagementFace:
    """Everything an operator can ask.

    Args:
        model_api: `enable_model_api`; without it models can't be registered or unregistered.
    """

    token: Kind | None = "management"

    def __init__(
        self,
        management: Management,
        respond: Responder,
        bodies: BodyReader,
        *,
        model_api: bool,
    ) -> None:
        self._management = management
        self._respond = respond
        self._bodies = bodies
        self._model_api = model_api

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim `/models...` and KServe's `/v1/models/{m}`; a wrong method is refused later."""
        count = len(segments)
        if segments[1] == "models":
            if count == 2:
                return self._collection
            if count <= 4:
                return self._model
            return self._default if count == 5 and segments[4] == "set-default" else None
        if count == 4 and segments[1:3] == ["v1", "models"]:
            return self._ready
        return None

    async def _collection(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if exchange.method == "GET":
            return self._list(exchange)
        if exchange.method == "POST" and self._model_api:
            return await self._register(exchange)
        raise MethodNotAllowed(NOT_ALLOWED)

    async def _model(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        model = segments[2]
        version = segments[3] if len(segments) > 3 else None
        return await self._by_method(exchange, model, version)

    async def _default(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        model, version = segments[2:4]
        if exchange.method == "PUT":
            exchange.model, exchange.version = model, version
            return self._outcome(exchange, self._management.set_default(model, version))
        # TorchServe takes other methods here as if neither version nor set-default were there.
        return await self._by_method(exchange, model, None)

    async def _by_method(self, exchange: Exchange, model: str, version: str | None) -> RawResponse:
        exchange.model, exchange.version = model, version
        method = exchange.method
        if method == "GET":
            return await self._describe(exchange, model, version)
        if method == "PUT":
            return await self._scale(exchange, model, version)
        if method == "DELETE" and self._model_api:
            return await self._change(exchange, self._management.unregister(model, version))
        if method == "OPTIONS":
            return self._respond.json(exchange, openapi.managed_model(model))
        raise MethodNotAllowed(NOT_ALLOWED)

    async def _ready(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if exchange.method != "GET":
            raise MethodNotAllowed(NOT_ALLOWED)
        exchange.model = model = segments[3].partition(":")[0]
        ready = self._management.ready(model)
        return self._respond.json(exchange, {"name": model, "ready": ready})

    def _list(self, exchange: Exchange) -> RawResponse:
        limit, start = page(Arguments(exchange.parameters()))
        return self._respond.json(exchange, self._management.list_models(limit, start))

    async def _describe(self, exchange: Exchange, model: str, version: str | None) -> RawResponse:
        customized = Arguments(exchange.parameters()).flag("customized", False)
        found = await self._management.describe(model, version, customized=customized)
        return self._respond.json(exchange, found)

    async def _scale(self, exchange: Exchange, model: str, version: str | None) -> RawResponse:
        arguments = Arguments(exchange.parameters())
        minimum = arguments.integer("min_worker")
        if minimum is None:
            minimum = 1
        maximum = arguments.integer("max_worker")
        if maximum is None:
            maximum = minimum
        version = version or arguments.text("model_version")
        synchronous = arguments.flag("synchronous", False)
        change = self._management.scale(model, version, minimum, maximum, synchronous)
        return await self._change(exchange, change, NOT_AWAITED)

    async def _register(self, exchange: Exchange) -> RawResponse:
        body = await self._bodies.read(exchange)
        if exchange.mime_type().strip().lower() == "application/json":
            # TorchServe then ignores the query altogether.
            arguments = Arguments(lenient_json(body), strict=True)
        else:
            arguments = Arguments(exchange.parameters())
        change = self._management.register(registration(arguments))
        return await self._change(exchange, change, NOT_REGISTERED)

    async def _change(
        self, exchange: Exchange, change: Coroutine[Any, Any, Outcome], cut: str | None = None
    ) -> RawResponse:
        return self._outcome(exchange, await self._management.changes.run(change, cut))

    def _outcome(self, exchange: Exchange, outcome: Outcome) -> RawResponse:
        return self._respond.json(exchange, {"status": outcome.message}, outcome.status)


def registration(arguments: Arguments) -> Registration:
    """Read the parameters of a registration; what the client left out is None.

    The JSON form of TorchServe took a missing max_batch_delay for -10000 ms; here it is unset.

    Raises:
        BadRequest: there is no url, or weights_only is neither true nor false.
    """
    url = arguments.text("url")
    if url is None:
        raise BadRequest("Parameter url is required.")
    return Registration(
        url=url,
        model_name=arguments.text("model_name") or None,
        handler=arguments.text("handler") or None,
        runtime=arguments.text("runtime") or None,
        batch_size=arguments.chosen("batch_size", -1),
        max_batch_delay=arguments.chosen("max_batch_delay", -100, -10000),
        initial_workers=arguments.integer("initial_workers"),
        synchronous=arguments.flag("synchronous", True),
        response_timeout=arguments.chosen("response_timeout", -1),
        startup_timeout=arguments.chosen("startup_timeout", -1),
        s3_sse_kms=arguments.flag("s3_sse_kms", False),
        weights_only=arguments.decision("weights_only"),
        max_latency=arguments.chosen("max_latency_ms", -1),
    )


class TokenFace:
    """`/token` on the management listener; it checks the API key itself (§5.8)."""

    token = None

    def __init__(self, tokens: Tokens, respond: Responder) -> None:
        self._tokens = tokens
        self._respond = respond

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim /token, for any method."""
        return self._refresh if segments[1] == "token" and len(segments) == 2 else None

    async def _refresh(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        kind = exchange.parameters().get("type")
        self._tokens.refresh(kind, exchange.header(hdrs.AUTHORIZATION))
        # An empty text and the line feed behind all that the server says.
        return self._respond.raw(exchange, 200, JSON, b"\n")
