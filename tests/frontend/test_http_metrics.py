"""The metrics listener (reference §6.1)."""

from __future__ import annotations

import pytest

from tests.frontend.http_fakes import edge, talk, without_id


def get(path: str) -> bytes:
    """The bytes of a GET that asks to close."""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()


async def test_metrics_are_prometheus_text_to_the_byte() -> None:
    async with edge() as e:
        await talk(e.port, get("/ping"))
        answer = await talk(e.listeners[2].port, get("/metrics?name%5B%5D=Requests2XX"))
    body = (
        b"# HELP Requests2XX Torchserve prometheus counter metric with unit: Count\n"
        b"# TYPE Requests2XX counter\n"
        b'Requests2XX{Level="Host",Hostname="here",} 1.0\n'
    )
    head, _, rest = without_id(answer).partition(b"\r\n\r\n")
    assert rest == body
    assert head.startswith(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\n"
        b"x-request-id: ID\r\nPragma: no-cache\r\n"
    )
    assert head.endswith(b"content-length: %d\r\nconnection: close" % len(body))


async def test_reading_metrics_counts_as_a_request() -> None:
    async with edge() as e:
        port = e.listeners[2].port
        await talk(port, get("/metrics"))
        answer = await talk(port, get("/metrics/anything?name[]=Requests2XX&name[]=Requests4XX"))
    assert b'Requests2XX{Level="Host",Hostname="here",} 1.0\n' in answer
    assert b'Requests4XX{Level="Host",Hostname="here",} 0.0\n' in answer
    assert b"Requests5XX" not in answer


@pytest.mark.parametrize("path", ["/ping", "/predictions/m", "/models", "/x"])
async def test_nothing_else_is_here(path: str) -> None:
    async with edge() as e:
        assert (await talk(e.listeners[2].port, get(path))).startswith(b"HTTP/1.1 404 ")


async def test_the_description_names_metrics_only() -> None:
    async with edge() as e:
        answer = await talk(e.listeners[2].port, get("/api-description"))
    assert b'"paths": {\n    "/metrics": {' in answer
    assert answer.count(b'"operationId"') == 1
