"""SageMaker's GET /execution-parameters: how a batch transform job shall send its records."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ts_frontend.plugins import Endpoint, Request, Response, Server

MEBIBYTE = 1 << 20


def endpoints(server: Server) -> Iterator[Endpoint]:
    """Called once at the start; the entry point leads here."""
    # SageMaker sends no token.
    yield Endpoint("/execution-parameters", partial(parameters, server), token=False)


async def parameters(server: Server, request: Request) -> Response:
    """Answer with as many concurrent requests as there are workers for them."""
    workers = server.config["default_workers_per_model"]
    if not workers:  # the server chose: one for each GPU, or else for each core
        workers = sum(model["maxWorkers"] for model in await server.models())
    return Response.json(
        {
            "MaxConcurrentTransforms": max(workers, 1),
            "BatchStrategy": "MULTI_RECORD",
            "MaxPayloadInMB": server.config["max_request_size"] // MEBIBYTE,
        }
    )
