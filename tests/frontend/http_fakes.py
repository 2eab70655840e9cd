"""A whole HTTP edge over a core that only remembers what it was asked, for test_http_*."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from ts_frontend.config import Address, Config
from ts_frontend.core.changes import Changes
from ts_frontend.core.inference import Inference
from ts_frontend.core.job import Answer, Kind, Sink, Stream
from ts_frontend.core.management import Management, Outcome
from ts_frontend.endpoints import Installed
from ts_frontend.errors import ModelNotFound, ServeError
from ts_frontend.http.listeners import Rooms, build_listeners
from ts_frontend.http.server import Listener
from ts_frontend.http.tokens import Tokens
from ts_frontend.log_lines import Made
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import MetricSpec, Spec
from ts_worker.messages import Request, unpack_headers

SPEC = Spec(
    ts=tuple(
        MetricSpec(name, "Count", "counter", ("Level", "Hostname"))
        for name in ("Requests2XX", "Requests4XX", "Requests5XX")
    )
)
ANY_PORT = Address("http", "127.0.0.1", 0)

Behaviour = Callable[[Request], Awaitable[Answer]]


async def echo(request: Request) -> Answer:
    """Answer with the first input."""
    return Answer(200, "", b"", bytes(request.params[0].value) if request.params else b"")


class FakePending:
    """A request that a task answers, as its sink is told in the end."""

    def __init__(self, answering: Coroutine[Any, Any, Answer], sink: Sink) -> None:
        self._sink = sink
        self._stream: Stream | None = None
        self._task = asyncio.create_task(self._run(answering))

    async def _run(self, answering: Coroutine[Any, Any, Answer]) -> None:
        try:
            outcome: Answer | ServeError = await answering
        except ServeError as error:
            outcome = error
        else:
            self._stream = outcome.chunks
        self._sink(outcome)

    def abandon(self) -> None:
        self._task.cancel()
        if self._stream is not None:
            self._stream.close()


@dataclass
class FakeInference:
    """Knows the model "m" with version "2.0"; remembers calls of `predict`, and how many requests
    came by `submit`."""

    behaviour: Behaviour = echo
    calls: list[tuple[str, str | None, Request]] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    well: bool = True
    startup: str | None = None
    submitted: int = 0

    async def predict(
        self, model: str, version: str | None, request: Request, kind: Kind = "predict"
    ) -> Answer:
        self.find(model, version)
        self.kinds.append(kind)
        self.calls.append((model, version, request))
        return await self.behaviour(request)

    def submit(
        self, model: str, version: str | None, request: Request, sink: Sink, kind: Kind = "predict"
    ) -> FakePending:
        self.find(model, version)
        self.submitted += 1
        return FakePending(self.predict(model, version, request, kind), sink)

    def find(self, model: str, version: str | None) -> None:
        if model != "m":
            raise ModelNotFound(f"Model not found: {model}")

    def healthy(self) -> bool:
        return self.well

    def startup_model(self) -> str | None:
        return self.startup

    def row(self) -> dict[str, tuple[str, bytes]]:
        """The last request's inputs: content type and bytes by name."""
        request = self.calls[-1][2]
        return {param.name: (param.content_type, bytes(param.value)) for param in request.params}

    def headers(self) -> dict[str, str]:
        """The last request's headers as the handler would see them."""
        return dict(unpack_headers(self.calls[-1][2].headers))


@dataclass
class FakeManagement:
    """Answers every change with ``outcome``; remembers what it was asked."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome(200, "done"))
    gate: asyncio.Event | None = None
    finished: int = 0
    lacks: list[str] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)

    @property
    def startup(self) -> FakeManagement:
        return self

    def missing(self) -> list[str]:
        return self.lacks

    def model_missing(self, model: str, version: str | None) -> list[str]:
        if model != "m":
            raise ModelNotFound(f"Model not found: {model}")
        return [f"{version} {one}" for one in self.lacks]

    async def register(self, asked: Any) -> Outcome:
        return await self._change("register", asked)

    async def unregister(self, *asked: Any) -> Outcome:
        return await self._change("unregister", *asked)

    async def scale(self, *asked: Any) -> Outcome:
        return await self._change("scale", *asked)

    async def _change(self, *call: Any) -> Outcome:
        self.calls.append(call)
        if self.gate is not None:
            await self.gate.wait()
        self.finished += 1
        return self.outcome

    def set_default(self, *asked: Any) -> Outcome:
        self.calls.append(("set_default", *asked))
        return self.outcome

    def list_models(self, limit: int, next_page_token: int) -> dict[str, Any]:
        self.calls.append(("list", limit, next_page_token))
        return {"models": []}

    async def describe(self, model: str, version: str | None, customized: bool) -> list[Any]:
        self.calls.append(("describe", model, version, customized))
        if model != "m":
            raise ModelNotFound(f"Model not found: {model}")
        return [{"modelName": model}]

    def ready(self, model: str) -> bool:
        self.calls.append(("ready", model))
        return True


@dataclass
class FakeLogs:
    """Collects lines, and under ``fields`` what they are made of."""

    access_lines: list[str] = field(default_factory=list)
    ts: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=list)
    fields: list[Sequence[object]] = field(default_factory=list)
    clock: Callable[[], float] = time.time

    def access(self, line: str, fields: Sequence[object]) -> None:
        self.access_lines.append(line)
        self.fields.append(fields)

    def ts_metrics(self, made: Made, values: Sequence[object]) -> None:
        self._make(self.ts, made, values)

    def model_metrics(self, made: Made, values: Sequence[object]) -> None:
        self._make(self.models, made, values)

    def _make(self, lines: list[str], made: Made, values: Sequence[object]) -> None:
        for line, fields in made.parts(int(self.clock()), values):
            lines.append(line)
            self.fields.append(fields)


@dataclass
class Edge:
    """The listeners of a configuration, and what they stand on."""

    listeners: list[Listener]
    inference: FakeInference
    management: FakeManagement
    logs: FakeLogs
    recorder: Recorder

    @property
    def port(self) -> int:
        """Where the inference API listens."""
        return self.listeners[0].port

    def url(self, path: str, listener: int = 0) -> str:
        """A URL of inference (0), management (1) or metrics (2)."""
        return f"http://127.0.0.1:{self.listeners[listener].port}{path}"


@asynccontextmanager
async def edge(
    *,
    behaviour: Behaviour = echo,
    tokens: Tokens | None = None,
    tune: Callable[[Listener], None] | None = None,
    endpoints: Sequence[Installed] = (),
    **settings: Any,
) -> AsyncIterator[Edge]:
    """Start an edge on free ports; ``tune`` may change a listener before it starts."""
    addresses = ("inference_address", "management_address", "metrics_address")
    config = Config(**{**dict.fromkeys(addresses, ANY_PORT), **settings})
    inference, management, logs = FakeInference(behaviour), FakeManagement(), FakeLogs()
    recorder = Recorder(SPEC, logs, host="here")
    seams = cast(Inference, inference), cast(Management, management)
    rooms = Rooms(*seams, recorder, logs, tokens, endpoints)
    listeners = build_listeners(config, rooms)
    started: list[Listener] = []
    try:
        for listener in listeners:
            if tune is not None:
                tune(listener)
            await listener.start()
            started.append(listener)
        yield Edge(listeners, inference, management, logs, recorder)
    finally:
        for listener in started:
            await listener.stop(grace=0.2)


async def talk(port: int, *pieces: bytes) -> bytes:
    """Send raw bytes and return everything the server says until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def post(path: str, body: bytes = b"", *lines: str) -> bytes:
    """The bytes of a POST that asks to close the connection behind it."""
    head = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *lines]
    return "\r\n".join([*head, "Connection: close", "", ""]).encode() + body


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is awaited here sets no event
            await asyncio.sleep(0)


_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def without_id(answer: bytes) -> bytes:
    """Put ID in place of each request id, which must be a random UUID."""
    return _ID.sub(b"ID", answer)
