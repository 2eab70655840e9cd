"""The ports where ranks meet: free, and nobody else's."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from ts_worker.backend.base import LoadFailed
from ts_worker.backend.ports import PortClaim, claim_port

ANOTHER_SERVER = """
import sys
from ts_worker.backend.ports import claim_port
claim = claim_port(int(sys.argv[1]))
print(claim.number, flush=True)
input()
"""

Claim = Callable[[int], PortClaim]


@pytest.fixture
def claim() -> Iterator[Claim]:
    """`claim_port`; what is still claimed at the end is released."""
    claims: list[PortClaim] = []

    def make(first: int) -> PortClaim:
        claims.append(claim_port(first))
        return claims[-1]

    yield make
    for one in claims:
        one.release()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def port() -> int:
    """A free one, in a range where no other test looks for one."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def test_a_port_where_somebody_listens_is_left_out(listener: socket.socket, claim: Claim) -> None:
    taken = listener.getsockname()[1]
    assert claim(taken).number > taken


def test_a_claimed_port_is_nobody_elses_until_it_is_released(port: int, claim: Claim) -> None:
    first = claim(port)
    assert claim(first.number).number > first.number
    first.release()
    assert claim(first.number).number == first.number


def test_servers_choose_different_ports(port: int, claim: Claim) -> None:
    """Each knew of its own alone, and rank 0 of the second could not listen."""
    mine = claim(port)
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER_SERVER, str(mine.number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        assert theirs > mine.number
        assert claim(theirs).number > theirs
        other.kill()
    assert claim(theirs).number == theirs, "it is free again however its server ended"


def test_a_port_whose_connections_still_close_is_left_out(
    listener: socket.socket, claim: Claim
) -> None:
    """The next ranks of a worker would not get it, where they listen without SO_REUSEADDR."""
    taken = listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", taken)) as client:
        ours, _ = listener.accept()
        ours.close()  # who closes first has the connection in TIME_WAIT
        assert client.recv(1) == b""
    listener.close()
    assert claim(taken).number > taken


def test_without_a_free_port_the_load_fails(claim: Claim) -> None:
    with socket.socket() as last:
        last.bind(("", 65535))
        with pytest.raises(LoadFailed, match="lower initial_distribution_port"):
            claim(65535)
