"""Mended on purpose: the wire, below any route."""

from __future__ import annotations

from pathlib import Path

from tests.compat.scenes import properties
from tests.frontend.http_fakes import edge, post, talk
from tests.frontend.http_fakes import until as turn
from ts_frontend.config import Address, load_config


async def test_a_413_has_a_body_that_names_the_key() -> None:
    """TorchServe's 413 had no body, no request id and no line in the access log."""
    async with edge(max_request_size=10) as e:
        answer = await talk(e.port, post("/predictions/m", b"x" * 11))
        assert answer.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
        assert b"x-request-id: " in answer
        assert b"raise max_request_size in config.properties" in answer
        await turn(lambda: len(e.logs.access_lines) == 1)


async def test_connection_close_of_the_client_counts() -> None:
    """TorchServe kept the connection of a client that had asked to close it."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m"))  # reads until the server closes
    assert b"\r\nconnection: close\r\n" in answer


async def test_a_request_line_may_be_longer_than_4096_bytes() -> None:
    """TorchServe answered 400 Invalid HTTP message, which presigned URLs in a query run into."""
    async with edge() as e:
        answer = await talk(e.port, post("/invocations?model_name=m&url=" + "x" * 6000))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_headers_may_be_longer_than_8192_bytes_together() -> None:
    """TorchServe's limit held for their sum."""
    headers = [f"X-{number}: {'x' * 4000}" for number in range(4)]
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b"", *headers))
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_made_up_method_is_a_400() -> None:
    """TorchServe took any word for a method, and predicted."""
    async with edge() as e:
        answer = await talk(e.port, b"FOO /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"message": "Invalid HTTP message."' in answer


def test_addresses_may_be_ipv6(tmp_path: Path) -> None:
    """TorchServe took no host with a colon in it."""
    properties(tmp_path, "inference_address=http://[::1]:8080")
    assert load_config({}, {}, tmp_path).inference_address == Address("http", "::1", 8080)
