"""The listening sockets of an https address, where clients that speak plain HTTP are told so.

asyncio's own server begins TLS before a byte has arrived, and who speaks HTTP sees the connection
end. `server` opens a `Door` in its place: it looks at a connection's first byte, without taking
it, and then hands the connection to TLS or to whoever answers plain requests.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections.abc import Callable, Sequence

log = logging.getLogger(__name__)

Protocols = Callable[[], asyncio.BaseProtocol]

# How long accepting rests when the process has no descriptors left, as in asyncio.
REST_SECONDS = 1.0
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Door:
    """Accepts connections; has what `asyncio.Server` has as far as `server` needs it.

    Args:
        secure: makes the protocol of a connection once its TLS stands.
        plain: makes the protocol of a connection that begins like an HTTP request.
        context: what TLS is spoken with.
        patience: seconds for a connection's first byte and TLS handshake together.
    """

    def __init__(
        self, secure: Protocols, plain: Protocols, context: ssl.SSLContext, patience: float
    ) -> None:
        self.sockets: Sequence[socket.socket] = ()
        self._secure = secure
        self._plain = plain
        self._context = context
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._entering: set[asyncio.Task[None]] = set()
        self._resting: dict[socket.socket, asyncio.TimerHandle] = {}

    async def open(self, host: str, port: int, backlog: int) -> None:
        """Listen on every address of a host.

        Raises:
            OSError: an address can't be bound, or there is none.
        """
        found = await self._loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        opened: list[socket.socket] = []
        try:
            for family, _, _, _, address in dict.fromkeys(found):
                opened.append(socket.create_server(address, family=family, backlog=backlog))
        except OSError:
            for one in opened:
                one.close()
            raise
        self.sockets = tuple(opened)
        for one in opened:
            one.setblocking(False)
            self._listen(one, backlog)

    def close(self) -> None:
        """Accept nothing more and drop who has not come in yet."""
        sockets, self.sockets = self.sockets, ()
        for one in sockets:
            self._loop.remove_reader(one)
            one.close()
        for timer in self._resting.values():
            timer.cancel()
        for task in self._entering:
            task.cancel()

    async def wait_closed(self) -> None:
        """Wait until those are gone."""
        if self._entering:
            await asyncio.wait(self._entering)

    def _listen(self, listening: socket.socket, backlog: int) -> None:
        self._loop.add_reader(listening, self._accept, listening, backlog)

    def _accept(self, listening: socket.socket, backlog: int) -> None:
        for _ in range(backlog):
            try:
                client, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                self._rest(listening, backlog, error)
                return
            client.setblocking(False)
            task = self._loop.create_task(self._enter(client))
            self._entering.add(task)
            task.add_done_callback(self._entering.discard)

    def _rest(self, listening: socket.socket, backlog: int, error: OSError) -> None:
        # The socket stays readable, so without a pause the loop would do nothing else.
        log.error("Connections have to wait: %s", error.strerror)
        self._loop.remove_reader(listening)
        self._resting[listening] = self._loop.call_later(
            REST_SECONDS, self._listen, listening, backlog
        )

    async def _enter(self, client: socket.socket) -> None:
        end = self._loop.time() + self._patience
        try:
            try:
                async with asyncio.timeout_at(end):
                    first = await self._peek(client)
            except BaseException:
                client.close()
                raise
            await self._hand_over(client, first, end)
        except OSError as error:  # a timeout and what ssl raises are some, too
            log.debug("A connection ended before its first request: %s", error)

    async def _peek(self, client: socket.socket) -> bytes:
        """Return the first byte, which stays where it is, or b"" when there will be none."""
        while True:
            try:
                return client.recv(1, socket.MSG_PEEK)
            except (BlockingIOError, InterruptedError):
                ready = asyncio.Event()
                self._loop.add_reader(client, ready.set)
                try:
                    await ready.wait()
                finally:
                    self._loop.remove_reader(client)

    async def _hand_over(self, client: socket.socket, first: bytes, end: float) -> None:
        """Give the socket away; whoever has it closes it."""
        if not first:
            client.close()
        elif first.isalpha():  # a method; TLS begins with 0x16
            await self._loop.connect_accepted_socket(self._plain, client)
        else:
            await self._loop.connect_accepted_socket(
                self._secure,
                client,
                ssl=self._context,
                # Zero is not allowed.
                ssl_handshake_timeout=max(end - self._loop.time(), 0.001),
            )
