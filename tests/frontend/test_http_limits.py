"""What is too long or too large, what is no HTTP, and bodies that come in pieces."""

from __future__ import annotations

import asyncio
import io

import aiohttp
import pytest

from tests.frontend.http_fakes import edge, post, talk


async def test_what_is_not_http_gets_a_json_400() -> None:
    async with edge() as e:
        answer = await talk(e.port, b"\x16\x03\x01garbage\r\n\r\n")
        lines = list(e.logs.access_lines)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n")
    assert b'"type": "BadRequestException",\n  "message": "Invalid HTTP message."' in answer
    assert len(lines) == 1
    assert '"GET / HTTP/1.' in lines[0]


async def test_a_line_that_is_too_long_gets_a_400() -> None:
    async with edge() as e:
        target = "/predictions/m?" + "x" * 9000
        answer = await talk(e.port, f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 400 ")


async def test_a_body_announced_too_large_is_refused_before_it_comes() -> None:
    request = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\n"
    async with edge(max_request_size=10) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(request)
        # The answer comes although not one byte of the body was sent.
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.close()
    assert head.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert b"connection: close" in head
    assert not e.inference.calls


@pytest.mark.parametrize("head", ["Content-Length: 11", "Transfer-Encoding: chunked"])
async def test_a_413_names_the_key_to_raise(head: str) -> None:
    body = b"x" * 11 if "Length" in head else b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
    request = f"POST /predictions/m HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n".encode()
    async with edge(max_request_size=10) as e:
        answer = await talk(e.port, request + body)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"raise max_request_size" in answer
        exact = await talk(e.port, post("/predictions/m", b"x" * 10))
        assert exact.startswith(b"HTTP/1.1 200 ")


async def test_a_chunked_body_is_put_together() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
    chunks = (b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n")
    async with edge() as e:
        answer = await talk(e.port, head + b"Connection: close\r\n\r\n", *chunks)
    assert answer.endswith(b"\r\n\r\nabcde")


async def test_broken_chunks_are_a_400() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with edge() as e:
        answer = await talk(e.port, head, b"zz\r\nabc\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"Invalid HTTP message." in answer


async def test_expect_100_continue_is_honoured_but_not_for_what_is_too_large() -> None:
    head = b"POST /predictions/m HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
    async with edge(max_request_size=100) as e:
        reader, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(head + b"Connection: close\r\nContent-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ok")
        assert (await reader.read()).endswith(b"\r\n\r\nok")
        writer.close()
        refused = await talk(e.port, head + b"Content-Length: 101\r\n\r\n", b"x" * 101)
    assert refused.startswith(b"HTTP/1.1 413 ")


async def test_large_bodies_go_both_ways() -> None:
    body = bytes(range(256)) * 16384  # 4 MiB: past every buffer on the way
    async with edge() as e, aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.post(e.url("/predictions/m"), data=io.BytesIO(body)) as answer:
                assert await answer.read() == body


async def test_an_unread_body_does_not_disturb_the_next_request() -> None:
    first = b"POST /ping HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nGET /"
    async with edge() as e:
        answer = await talk(e.port, first, post("/predictions/m", b"ok"))
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.endswith(b"\r\n\r\nok")
