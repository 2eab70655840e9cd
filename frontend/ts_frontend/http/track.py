"""What a connection does about the requests of its `Lane`: one at a time, without a task.

`connection` gives it what arrives; `server` asks the model and hands the answer in.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from aiohttp.web import BaseRequest

from ts_frontend.core.inference import Pending
from ts_frontend.http.lane import MAX_MISSES, Again, Lane, lane
from ts_frontend.http.response import RawResponse, StreamedResponse

if TYPE_CHECKING:
    from ts_frontend.http.connection import Connection
    from ts_frontend.http.exchange import Exchange

# Of requests that a client sends before it has its answer; then it has to wait.
HELD_BYTES = 64 * 1024


class Track:
    """The lane of one connection and the request that is on it.

    There is a lane only while aiohttp's parser is at rest: it has been fed nothing but whole
    requests, and nothing since.

    Args:
        again: answers a request of the lane.
    """

    __slots__ = (
        "_again",
        "_connection",
        "_held",
        "_lane",
        "_misses",
        "_pending",
        "_sending",
        "busy",
    )

    def __init__(self, connection: Connection, again: Again) -> None:
        self._connection = connection
        self._again = again
        self._lane: Lane | None = None
        self._misses = 0
        self._held = bytearray()
        self._pending: Pending | None = None
        self._sending: asyncio.Task[None] | None = None
        self.busy = False

    def take(self, data: bytes) -> bool:
        """Begin with a request of the lane. False where this is none: the caller has to `leave`."""
        road = self._lane
        if road is None:
            return False
        body = road.body(data)
        if body is None:
            self._misses += 1
            return False
        self._misses = 0
        self.busy = True
        self._connection.occupy(road.exchange.request)
        self._again(self._connection, road, body)
        return True

    def leave(self) -> None:
        """The parser is fed, and may be in the middle of a request afterwards."""
        self._lane = None

    def learn(self, data: bytes, exchange: Exchange) -> None:
        """Make a lane of a request that was answered. ``data`` is what the parser was fed last."""
        if exchange.repeat is None or self._misses >= MAX_MISSES:
            return
        self._lane = lane(data, exchange, exchange.repeat)
        if self._lane is None:
            self._misses += 1

    def waits(self, pending: Pending) -> None:
        """The model was asked; it may have answered already."""
        if self.busy:
            self._pending = pending

    def hold(self, data: bytes) -> None:
        """Keep what came before the answer has gone."""
        self._held += data
        transport = self._connection.transport
        # Not by the connection, which would ask the parser to wait, too: that has nothing to do.
        if len(self._held) > HELD_BYTES and transport is not None:
            transport.pause_reading()

    def answered(self, response: RawResponse) -> None:
        """Send an answer, and go on with what came meanwhile."""
        connection = self._connection
        transport, request = connection.transport, connection._current_request
        streamed = isinstance(response, StreamedResponse)
        if transport is not None and not streamed:
            response.send(transport)
        if request is not None and (streamed or connection._paused):
            self._sending = connection._loop.create_task(self._send(response, request))
        else:
            self._release(response)

    def lost(self) -> None:
        """Nobody is there to be answered any more. May be repeated."""
        self._lane = None
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.abandon()  # a stream, too: a task that has not begun would not close it
        if self._sending is not None:
            self._sending.cancel()
        if self.busy:
            self._connection.ended_request()

    async def _send(self, response: RawResponse, request: BaseRequest) -> None:
        """Send what a client reads too slowly, or what the model has not yet said to its end."""
        whole = False
        try:
            with contextlib.suppress(ConnectionError):  # it has gone, or the answer broke off
                await response.finish(request)
                whole = True
        finally:
            self._sending = None
            if not whole:
                self._connection.force_close()
            self._release(response)

    def _release(self, response: RawResponse) -> None:
        self._pending = None
        if self._connection.vacate(response) and self._held:
            # In a turn of its own, since who answers is in the middle of its work. Until then all
            # that comes has to wait behind it.
            self._connection._loop.call_soon(self._go_on)
        else:
            self.busy = False

    def _go_on(self) -> None:
        held, self._held = bytes(self._held), bytearray()
        self.busy = False
        transport = self._connection.transport
        if transport is None or transport.is_closing():
            return
        if len(held) > HELD_BYTES:
            transport.resume_reading()
        self._connection.data_received(held)
