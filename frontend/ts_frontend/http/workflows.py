"""What is left of TorchServe's workflow API: it could register none any more (reference §10).

`listeners` puts the one face behind the inference API and the other behind the management API, so
that clients made for workflows get TorchServe's answers and not just any 404.
"""

from __future__ import annotations

from ts_frontend.errors import BadRequest, MethodNotAllowed, ResourceNotFound, WorkflowNotFound
from ts_frontend.http.arguments import Arguments, page
from ts_frontend.http.exchange import Exchange
from ts_frontend.http.respond import Responder
from ts_frontend.http.response import RawResponse
from ts_frontend.http.router import NOT_ALLOWED, NOT_FOUND, Handler
from ts_frontend.http.tokens import Kind

REGISTERING_IS_OFF = "Registering new workflows is disabled."


class WorkflowsFace:
    """`/workflows` on the management listener: a list that is always empty."""

    token: Kind | None = "management"

    def __init__(self, respond: Responder) -> None:
        self._respond = respond

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim /workflows and what is up to two segments below it."""
        if segments[1] != "workflows" or len(segments) > 4:
            return None
        return self._collection if len(segments) == 2 else self._workflow

    async def _collection(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if exchange.method == "GET":
            limit, start = page(Arguments(exchange.parameters()))
            # By the rule of the model list: a page that ends with the last one has a token.
            token = {"nextPageToken": "0"} if start + limit == 0 else {}
            return self._respond.json(exchange, {**token, "workflows": []})
        if exchange.method == "POST":
            raise BadRequest(REGISTERING_IS_OFF)
        raise MethodNotAllowed(NOT_ALLOWED)

    async def _workflow(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if exchange.method in ("GET", "DELETE"):
            raise WorkflowNotFound(f"Workflow not found: {segments[2]}")
        raise MethodNotAllowed(NOT_ALLOWED)


class WorkflowPredictionFace:
    """`/wfpredict/{workflow}` on the inference listener, for any method and spelling in case."""

    token: Kind | None = "inference"

    def find(self, method: str, segments: list[str]) -> Handler | None:
        """Claim /wfpredict and all below it."""
        return self._predict if segments[1].lower() == "wfpredict" else None

    async def _predict(self, exchange: Exchange, segments: list[str]) -> RawResponse:
        if len(segments) < 3:
            raise ResourceNotFound(NOT_FOUND)
        raise WorkflowNotFound(f"Workflow not found: {segments[2]}")
