"""Lets requests without a Host in, as TorchServe did. `connection` asks it about what it reads."""

from __future__ import annotations

import re

_HEAD = re.compile(rb"([!-~]+ [!-~]+ HTTP/1\.1\r\n)((?:[^\r\n]+\r\n)*)\r\n")
_HOST = re.compile(rb"^host[ \t]*:", re.IGNORECASE | re.MULTILINE)


def with_host(data: bytes) -> bytes:
    """Add an empty Host to a request that begins here and has none.

    HTTP/1.1 asks for one, and aiohttp's parsers refuse what lacks it. TorchServe answered, and load
    balancers probe so.
    """
    head = _HEAD.match(data)
    if head is None or _HOST.search(head[2]):
        return data
    return b"".join((head[1], b"Host: \r\n", data[head.end(1) :]))
