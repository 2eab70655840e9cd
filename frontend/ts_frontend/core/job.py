"""One prediction on its way: the job that waits in a queue and the answer that comes back.

`inference` makes jobs, `batching` holds them, `dispatch` answers them; the edges see `Answer`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ts_frontend.errors import ServeError
from ts_worker.messages import Buffer, ReplyChunk, Request, Response

Kind = Literal["predict", "explain", "describe"]

# What a stream holds for a client that reads more slowly than the handler writes before the handler
# has to wait. Far beyond any text, and a hundred such clients fit into a small machine's memory.
STREAM_BYTES = 4 << 20


class Stream(AsyncIterator[Buffer]):
    """The chunks of a streamed answer after its first one.

    Iterating raises the `ServeError` that ended the stream early, if one did. `aclose` before the
    end cancels the request in the worker.

    Args:
        on_close: the reader goes away before the end.
        on_pressure: told True when `STREAM_BYTES` are unread, and False when no longer half of
            them are, or no more will come.
    """

    __slots__ = (
        "_closed",
        "_error",
        "_on_close",
        "_on_end",
        "_on_pressure",
        "_parts",
        "_pressing",
        "_unread",
        "_waiter",
        "ended",
    )

    def __init__(
        self, on_close: Callable[[], None], on_pressure: Callable[[bool], None] = lambda _: None
    ) -> None:
        self._parts: deque[Buffer] = deque()
        self._unread = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: ServeError | None = None
        self._on_close = on_close
        self._on_pressure = on_pressure
        self._pressing = False
        self._on_end: Callable[[bool], None] | None = None
        self._closed = False
        self.ended = False

    def when_ended(self, callback: Callable[[bool], None]) -> None:
        """Call back once when the worker ended the stream (True) or it broke off (False)."""
        if self.ended:
            callback(self._error is None)
        else:
            self._on_end = callback

    def push(self, part: Buffer) -> None:
        """Add a chunk; empty ones carry nothing and would end a chunked HTTP body."""
        if not part or self._closed or self.ended:
            return
        self._parts.append(part)
        self._unread += len(part)
        if self._unread >= STREAM_BYTES:
            self._press(True)
        self._wake()

    def end(self, error: ServeError | None = None) -> None:
        """No more chunks will come, because of ``error`` when there is one."""
        if self.ended:
            return
        self.ended = True
        self._error = error
        self._press(False)
        self._wake()
        if self._on_end is not None:
            self._on_end(error is None)

    def _press(self, on: bool) -> None:
        if on != self._pressing:
            self._pressing = on
            self._on_pressure(on)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def __anext__(self) -> Buffer:
        while not self._parts:
            if self._error is not None and not self._closed:
                raise self._error
            if self.ended or self._closed:
                raise StopAsyncIteration
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        part = self._parts.popleft()
        self._unread -= len(part)
        if self._unread < STREAM_BYTES // 2:
            self._press(False)
        return part

    async def aclose(self) -> None:
        """Stop listening; a stream that still runs is cancelled in the worker. May be repeated."""
        self.close()

    def close(self) -> None:
        """`aclose` for who cannot wait."""
        self._closed = True
        self._parts.clear()
        self._unread = 0
        self._wake()
        if not self.ended:
            self._on_close()
            self.end(ServeError("The stream was closed by its reader."))


@dataclass(slots=True)
class Answer:
    """What a model answered. ``headers`` is packed as in `messages.unpack_headers`.

    ``chunks`` is not None for a streamed answer, whose first chunk is ``body``: close it
    (``await chunks.aclose()``) when the client goes away, which cancels the request.
    """

    status: int
    reason: str
    headers: bytes
    body: Buffer
    chunks: Stream | None = None


class Canceller(Protocol):
    """Whoever holds a job that has left its queue: a worker's pump.

    ``hold(True)`` asks it to make the worker wait, since nobody reads what it sends; each is
    followed by a ``hold(False)``.
    """

    def cancel(self, job: Job) -> None: ...
    def hold(self, on: bool) -> None: ...


# Takes what a request came to, once. Called in the middle of the core's work, it must not raise.
Sink = Callable[["Answer | ServeError"], None]


class Job:
    """One request with the place its answer goes to. Times are of `time.monotonic`.

    Attributes:
        settled: the sink has been called, or nobody waits any more.
        timer: cancelled when the job is settled.
    """

    __slots__ = (
        "_sink",
        "arrived",
        "holder",
        "kind",
        "request",
        "settled",
        "stream",
        "taken",
        "timer",
    )

    def __init__(self, request: Request, sink: Sink, kind: Kind = "predict") -> None:
        self.request = request
        self.kind = kind
        self.arrived = time.monotonic()
        self.taken = 0.0
        self.holder: Canceller | None = None
        self.stream: Stream | None = None
        self.settled = False
        self.timer: asyncio.TimerHandle | None = None
        self._sink = sink

    def joins(self, other: Job) -> bool:
        """Whether it may be in one batch with the other: handlers ask the first request of a batch
        what they are to do. A description comes alone."""
        return self.kind == other.kind != "describe"

    def answer(self, response: Response) -> None:
        """Give the final answer, or the last chunk of a streamed one."""
        if self.stream is not None:
            self.stream.push(response.body)
            self.stream.end()
        elif not self.settled:
            _, status, reason, headers, body = response
            self._settle(Answer(status, reason, headers, body))

    def chunk(self, part: ReplyChunk) -> None:
        """Give a part of a streamed answer; the first one also gives status and headers."""
        if self.stream is not None:
            self.stream.push(part.body)
        elif not self.settled:
            self.stream = Stream(self._tell_holder, self._hold)
            self._settle(Answer(part.status, part.reason, part.headers, part.body, self.stream))

    def fail(self, error: ServeError) -> None:
        """Answer with an error; a stream that has begun breaks off with it."""
        if self.stream is not None:
            self.stream.end(error)
        elif not self.settled:
            self._settle(error)

    def cancel(self) -> None:
        """Tell the worker that runs this job that nobody waits for it."""
        if self.stream is not None:
            self.stream.close()
        else:
            self._tell_holder()

    def forget(self) -> None:
        """Nobody waits any more: whatever comes is dropped."""
        self.settled = True
        if self.timer is not None:
            self.timer.cancel()

    def _settle(self, outcome: Answer | ServeError) -> None:
        self.forget()
        self._sink(outcome)

    def _tell_holder(self) -> None:
        if self.holder is not None:
            self.holder.cancel(self)

    def _hold(self, on: bool) -> None:
        if self.holder is not None:
            self.holder.hold(on)
