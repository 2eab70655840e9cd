"""Requests that a client repeats on its connection with other bodies, answered without a parser.

A client that keeps its connection mostly sends the same head again, but for its body's length.
Equal bytes mean the same, so that what was found out about the first request holds for the next:
`server` makes a `Lane` of a request that was answered, `track` asks it about what arrives.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import HttpVersion11, hdrs

from ts_frontend.core.inference import Pending
from ts_frontend.core.job import Sink
from ts_frontend.http.exchange import Exchange

if TYPE_CHECKING:
    from ts_frontend.http.connection import Connection

# A longer head is left to the parser, which has limits for lines and fields.
MAX_HEAD = 4096
# So many heads in a row that differ, such as those with an id for each request: no more is learnt.
MAX_MISSES = 4
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ([0-9]{1,12})\r\n")
# What makes a request more than a head and a body of known length; any spelling, anywhere.
_SPECIAL = re.compile(rb"transfer-encoding|expect|upgrade|http2-settings", re.IGNORECASE)


class Repeat(Protocol):
    """What a face does for a request whose head it has seen."""

    def __call__(self, exchange: Exchange, headers: bytes, body: bytes, sink: Sink) -> Pending:
        """Ask the model, with the request's headers packed for the handler.

        Raises:
            ServeError: the request is refused.
        """


# Answers a request of a lane with this body.
Again = Callable[["Connection", "Lane", bytes], None]


@dataclass(slots=True)
class Lane:
    """A head, cut at the digits of its Content-Length.

    Args:
        exchange: of the request that was parsed; one request at a time uses it again.
        repeat: what the face does.
        before: the bytes up to the digits; ``after``: those behind them, to the end of the head.
        packed_before: the same two halves of the headers as the handler's row has them.
    """

    exchange: Exchange
    repeat: Repeat
    before: bytes
    after: bytes
    packed_before: bytes
    packed_after: bytes
    _packed: tuple[int, bytes] = (-1, b"")

    def body(self, data: bytes) -> bytes | None:
        """The body of a request with this head; None unless ``data`` is just such a request."""
        before, after = self.before, self.after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + 13)
        if end < 0 or not data.startswith(after, end):
            return None
        body = data[end + len(after) :]
        # Exactly the digits that this length has: no sign, space or leading zero gets by.
        return body if data[start:end] == b"%d" % len(body) else None

    def headers(self, body: bytes) -> bytes:
        """The packed headers of the request with this body."""
        size, packed = self._packed
        if size != len(body):
            packed = b"%b%d%b" % (self.packed_before, len(body), self.packed_after)
            self._packed = (len(body), packed)
        return packed


def lane(data: bytes, exchange: Exchange, repeat: Repeat, marks: bytes) -> Lane | None:
    """A lane for requests such as this one; None where there is more to it than head and body.

    Args:
        data: all that the client sent of the request, and nothing else.
        marks: packed headers of our own, behind the client's.
    """
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD) + 4
    found = _LENGTH.search(data, 0, end) if end > 3 else None
    request = exchange.request
    if (
        found is None
        or not exchange.keep_alive
        or request.version is not HttpVersion11
        or _SPECIAL.search(data, 0, end) is not None
        or int(found[1]) != len(data) - end
    ):
        return None
    lengths = [i for i, (name, _) in enumerate(request.raw_headers) if name.lower() == _NAME]
    if len(lengths) != 1:
        return None
    pairs = [part for pair in request.raw_headers for part in pair]
    at = 2 * lengths[0] + 1
    behind = [b"", *pairs[at + 1 :], *([marks] if marks else [])]
    return Lane(
        exchange,
        repeat,
        data[: found.start(1)],
        data[found.end(1) : end],
        b"\0".join([*pairs[:at], b""]),
        b"\0".join(behind),
    )


_NAME = hdrs.CONTENT_LENGTH.lower().encode()
