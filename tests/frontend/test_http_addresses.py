"""Addresses that are taken, and sockets in the file system."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from tests.frontend.http_fakes import edge, post, until
from tests.frontend.http_kept import Kept
from ts_frontend.config import Address
from ts_frontend.http.server import BindError


async def test_an_address_in_use_is_one_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=f"Cannot listen on http://127.0.0.1:{port}: .*in use"):
            async with edge(inference_address=Address("http", "127.0.0.1", port)):
                pass


async def test_a_unix_socket_serves_and_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    address = Address("unix", "", 0, str(path))

    async def ask(body: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(post("/predictions/m", body))
        answer = await reader.read()
        writer.close()
        return answer

    async with edge(inference_address=address) as e:
        assert (await ask(b"hello")).endswith(b"\r\n\r\nhello")
        assert e.logs.access_lines[0].startswith('127.0.0.1 "POST ')
        with pytest.raises(BindError, match="Another server listens there"):
            async with edge(inference_address=address):
                pass
        # The second server only looked: the first goes on, and has seen that connection end.
        assert (await ask(b"again")).endswith(b"\r\n\r\nagain")
        await until(lambda: not e.listeners[0]._web.connections)
    assert not path.exists()


async def test_a_socket_file_left_by_a_dead_server_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with edge(inference_address=Address("unix", "", 0, str(path))):
        assert path.is_socket()


async def test_a_file_in_the_place_of_a_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(BindError, match="There is a file of that name"):
        async with edge(inference_address=Address("unix", "", 0, str(path))):
            pass
    assert path.read_text() == "precious"


async def test_a_request_is_repeated_over_a_unix_socket(tmp_path: Path) -> None:
    address = Address("unix", "", 0, str(tmp_path / "s"))
    async with edge(inference_address=address) as e:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "s"))
        sock.setblocking(False)
        async with Kept(e, sock=sock) as client:
            for n in range(3):
                assert (await client.ask("/predictions/m", b"%d" % n)).body == b"%d" % n
        assert e.inference.submitted == 2
        assert all(line.startswith('127.0.0.1 "POST ') for line in e.logs.access_lines)
