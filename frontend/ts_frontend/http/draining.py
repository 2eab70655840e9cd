"""One connection while its listener drains: a client that keeps it waiting is dropped soon, and one
whose request is being answered is not. `connection` runs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import sys
import termios
from collections.abc import AsyncIterator
from typing import NamedTuple

from aiohttp import StreamReader
from aiohttp.web import RequestHandler

from ts_frontend.errors import ServiceUnavailable

log = logging.getLogger(__name__)

# A client that neither sends nor reads for so long will not begin again before the grace is over.
IDLE_SECONDS = 3.0
# For reading where the kernel does not tell what it has left to send: what is left here shrinks in
# steps of megabytes, with many seconds between them for a client that reads slowly.
BLIND_SECONDS = 15.0
# Whoever still sends then had better ask another server: answering takes time, too.
SENDING_SECONDS = 10.0
_LOOK_SECONDS = 0.25
_UNFINISHED = "The server is stopping: it does not wait for the rest of this request."


def unfinished_body(connection: RequestHandler) -> StreamReader | None:
    """The body that the client still sends, of the request that is being answered."""
    request = connection._current_request
    if request is None or request.content.is_eof() or request.content.exception() is not None:
        return None
    return request.content


async def sent(connection: RequestHandler) -> None:
    """Wait until the client has sent its request, or has been dropped."""
    body = unfinished_body(connection)
    if body is not None:
        with contextlib.suppress(Exception):  # it is the handler's to read
            await body.wait_eof()


@contextlib.asynccontextmanager
async def hurried(connection: RequestHandler) -> AsyncIterator[None]:
    """Drop the client while it does not get on."""
    hurrying = asyncio.create_task(_hurry(connection))
    try:
        yield
    finally:
        hurrying.cancel()


async def _hurry(connection: RequestHandler) -> None:
    loop = asyncio.get_running_loop()
    begun = since = loop.time()
    before: _Standing | None = None
    while True:
        now, standing = loop.time(), _standing(connection)
        if standing is None or standing != before:
            before, since = standing, now
        if now - since >= _patience(standing) or (
            now - begun >= SENDING_SECONDS and unfinished_body(connection) is not None
        ):
            _drop(connection)
        await asyncio.sleep(_LOOK_SECONDS)


class _Standing(NamedTuple):
    """How far a client has got: the bytes it has sent, those that wait here for it to read, and
    those that wait in the kernel, None where that does not tell."""

    sent: int | None
    unread: int
    in_kernel: int | None


def _standing(connection: RequestHandler) -> _Standing | None:
    """None while it is the server's turn."""
    body, transport = unfinished_body(connection), connection.transport
    unread = 0 if transport is None else transport.get_write_buffer_size()
    if body is None and not unread:
        return None
    return _Standing(None if body is None else body.total_bytes, unread, _in_kernel(transport))


def _in_kernel(transport: asyncio.Transport | None) -> int | None:
    sock = None if transport is None else transport.get_extra_info("socket")
    if sock is None or sys.platform != "linux":
        return None
    try:
        left = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed meanwhile, or not of that kind
        return None
    return int.from_bytes(left, sys.byteorder)


def _patience(standing: _Standing | None) -> float:
    blind = standing is not None and standing.sent is None and standing.in_kernel is None
    return BLIND_SECONDS if blind else IDLE_SECONDS


def _drop(connection: RequestHandler) -> None:
    body = unfinished_body(connection)
    if body is not None:
        body.set_exception(ServiceUnavailable(_UNFINISHED))  # which is answered as any error
    elif connection.transport is not None:
        log.info("A client does not read its answer while the server stops: it is cut off.")
        connection.transport.abort()
