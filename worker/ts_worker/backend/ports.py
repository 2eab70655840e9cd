"""Ports where the ranks of a worker meet, found so that no two workers get the same one.

Rank 0 listens at its port only seconds after it was chosen, once it has imported torch; until then
another server on this machine could choose it as well. So who chooses a port takes the UDP port of
the same number first, which ranks do not use, and keeps it. Like a lock it is one of the machine's
or container's, whoever runs the servers, and is free again when its process ends in whatever way.
"""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass

from ts_worker.backend.base import LoadFailed

_LAST = 65535


@dataclass(frozen=True, slots=True)
class PortClaim:
    """A TCP port that is one worker's until `release`."""

    number: int
    lock: socket.socket

    def release(self) -> None:
        self.lock.close()


def claim_port(first: int) -> PortClaim:
    """The first port from ``first`` on that is free, and that no other worker has claimed.

    Raises:
        LoadFailed: there is none.
    """
    for number in range(first, _LAST + 1):
        with contextlib.suppress(OSError), contextlib.ExitStack() as unless_claimed:
            lock = unless_claimed.enter_context(socket.socket(type=socket.SOCK_DGRAM))
            lock.bind(("127.0.0.1", number))
            # Without SO_REUSEADDR: a port at which connections of earlier ranks are still being
            # closed is no port for ranks that do not set it either.
            with socket.socket() as probe:
                probe.bind(("", number))
            unless_claimed.pop_all()
            return PortClaim(number, lock)
    raise LoadFailed(
        500,
        f"No port from {first} to {_LAST} is free for its ranks to meet at: "
        "lower initial_distribution_port.",
    )
