"""Requests that a client repeats on its connection with other bodies, answered without a parser.

A client that keeps its connection mostly sends the same head again, but for its body's length.
Equal bytes mean the same, so that what was found out about the first request holds for the next:
`server` makes a `Lane` of a request that was answered, `track` asks it about what arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from aiohttp import hdrs

from ts_frontend.core.inference import Pending
from ts_frontend.core.job import Sink
from ts_frontend.http.exchange import Exchange

if TYPE_CHECKING:
    from ts_frontend.http.connection import Connection

# A longer head is left to the parser, which has limits for lines and fields.
MAX_HEAD = 4096
# So many heads in a row that differ, such as those with an id for each request: no more is learnt.
MAX_MISSES = 4
_LENGTH = b"content-length"
# What makes a request more than a head and a body of known length.
_SPECIAL = frozenset((b"transfer-encoding", b"trailer", b"expect", b"upgrade", b"http2-settings"))


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


def lane(data: bytes, exchange: Exchange, repeat: Repeat) -> Lane | None:
    """A lane for requests such as this one; None where there is more to it than head and body.

    Args:
        data: what the client sent last. It has to be, byte by byte, the request as the parser read
            it, so that nothing that came before, and nothing behind it, belongs to it or is left.
    """
    request = exchange.request
    pairs = request.raw_headers
    names = [name.lower() for name, _ in pairs]
    if (
        not exchange.keep_alive
        or request.method == hdrs.METH_CONNECT
        or names.count(_LENGTH) != 1
        or not _SPECIAL.isdisjoint(names)
    ):
        return None
    at = names.index(_LENGTH)
    target = request.raw_path.encode("utf-8", "surrogateescape")
    lines = [b"%b %b HTTP/1.1" % (request.method.encode(), target)]
    lines += [b"%b: %b" % pair for pair in pairs]
    packed = [part for pair in pairs for part in pair]
    behind = [b"", *packed[2 * at + 2 :], *([exchange.marks] if exchange.marks else [])]
    made = Lane(
        exchange,
        repeat,
        b"\r\n".join([*lines[: at + 1], pairs[at][0] + b": "]),
        b"\r\n".join([b"", *lines[at + 2 :], b"", b""]),
        b"\0".join([*packed[: 2 * at + 1], b""]),
        b"\0".join(behind),
    )
    if len(made.before) + len(made.after) > MAX_HEAD or made.body(data) is None:
        return None
    return made
