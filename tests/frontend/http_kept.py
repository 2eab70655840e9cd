"""A client that keeps its connection, for the tests of repeated requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from tests.frontend.http_fakes import Edge, edge, until
from ts_frontend.core.job import Answer, Sink, Stream
from ts_frontend.http.connection import Connection
from ts_frontend.http.server import Listener
from ts_worker.messages import Request

M = "/predictions/m"


def ask(path: str, body: bytes = b"", *lines: str, method: str = "POST") -> bytes:
    """The bytes of a request that keeps its connection."""
    head = [f"{method} {path} HTTP/1.1", "Host: x", *lines, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(head).encode() + body


class Said(NamedTuple):
    """An answer: its head without the request id, and its body without chunks' frames."""

    head: bytes
    body: bytes
    id: bytes
    closes: bool


class Kept:
    """A connection to the inference API, opened again when the server has closed it.

    Args:
        options: of `asyncio.open_connection`.
    """

    def __init__(self, edge: Edge, **options: Any) -> None:
        self._edge = edge
        self._options = options

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    async def open(self) -> None:
        where = {} if "sock" in self._options else {"host": "127.0.0.1", "port": self._edge.port}
        self.reader, self.writer = await asyncio.open_connection(**where, **self._options)

    async def close(self) -> None:
        self.writer.close()
        with_errors = await asyncio.gather(self.writer.wait_closed(), return_exceptions=True)
        assert all(isinstance(one, OSError | None) for one in with_errors)

    async def ask(self, path: str, body: bytes = b"", *lines: str, method: str = "POST") -> Said:
        """Send a request and take its answer."""
        self.writer.write(ask(path, body, *lines, method=method))
        said = await self.said(method)
        if said.closes:
            await self.close()
            await self.open()
        return said

    async def said(self, method: str = "POST") -> Said:
        """Take the next answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.split(b"\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in lines[1:] if line)
            if method == "HEAD" or head.startswith(b"HTTP/1.1 204 "):
                body = b""
            elif b"transfer-encoding" in fields:
                body = await self._chunks()
            else:
                body = await self.reader.readexactly(int(fields[b"content-length"]))
            closes = fields[b"connection"] == b"close"
            assert not closes or await self.reader.read() == b""
        id = fields[b"x-request-id"]
        return Said(head.replace(id, b"ID"), body, id, closes)

    async def _chunks(self) -> bytes:
        body = b""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            body += await self.reader.readexactly(size)
            assert await self.reader.readexactly(2) == b"\r\n"
        assert await self.reader.readexactly(2) == b"\r\n"
        return body

    async def server_side(self) -> Connection:
        """The server's end of this connection, the only one there is."""
        web = self._edge.listeners[0]._web
        assert web is not None
        await until(lambda: len(web.connections) == 1)
        (connection,) = web.connections
        assert isinstance(connection, Connection)
        return connection


class Model:
    """A model whose requests the test answers, when it likes."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.sinks: list[Sink] = []
        self.abandoned = 0
        self.stream: Stream | None = None

    def submit(self, model: str, version: str | None, request: Request, sink: Sink, *_: Any) -> Any:
        self.asked.append(request)
        self.sinks.append(sink)
        return self

    def abandon(self) -> None:
        self.abandoned += 1
        if self.stream is not None:  # as the core does
            self.stream.close()

    @property
    def bodies(self) -> list[bytes]:
        return [bytes(request.params[0].value) for request in self.asked]

    def say(self, body: bytes = b"said", chunks: Stream | None = None) -> None:
        """Answer the request that came last, in the middle of whatever the caller does."""
        self.stream = chunks
        self.sinks[-1](Answer(200, "", b"", body, chunks))


@asynccontextmanager
async def repeated(
    tune: Callable[[Listener], None] | None = None,
) -> AsyncIterator[tuple[Edge, Kept, Connection, Model]]:
    """A client whose next request of the same kind needs no parser."""
    async with edge(tune=tune) as e, Kept(e) as client:
        await client.ask(M, b"first")
        model = Model()
        cast(Any, e.inference).submit = model.submit
        yield e, client, await client.server_side(), model


async def asked(client: Kept, model: Model, body: bytes = b"again") -> None:
    """Send a request, and wait until the model has it."""
    count = len(model.asked)
    client.writer.write(ask(M, body))
    await until(lambda: len(model.asked) > count)
    assert model.bodies[-1] == body
