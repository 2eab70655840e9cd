"""A client that hides nothing: it sends the bytes it is given and shows the bytes that come."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

SECONDS = 20.0
FIXED = {
    "Pragma": "no-cache",
    "Cache-Control": "no-cache; no-store, must-revalidate, private",
    "Expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


@dataclass(frozen=True)
class Reply:
    """A response: status line and header lines as they came, the body with its chunks joined."""

    line: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    chunks: tuple[bytes, ...] = ()

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str | None:
        """The value of a header by its exact name; each comes once at most."""
        values = [value for key, value in self.headers if key == name]
        assert len(values) < 2, f"{name} came {len(values)} times"
        return values[0] if values else None


class Line:
    """A connection."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._file = sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def read(self, *, bodiless: bool = False) -> Reply:
        """Read one response; ``bodiless`` for one to HEAD."""
        line = self._file.readline().decode("latin-1")
        assert line.endswith("\r\n"), f"no status line but {line!r}"
        headers = tuple(self._headers())
        named = {name.lower(): value for name, value in headers}
        chunks: tuple[bytes, ...] = ()
        if bodiless or line.split(" ")[1] in ("100", "204", "304"):
            body = b""
        elif named.get("transfer-encoding") == "chunked":
            chunks = tuple(self._chunks())
            body = b"".join(chunks)
        else:
            length = named.get("content-length")
            body = self._file.read(-1 if length is None else int(length))
        return Reply(line[:-2], headers, body, chunks)

    def ended(self) -> bool:
        """Whether the server closes the connection now, with nothing more to say."""
        try:
            return self._file.read(1) == b""
        except ConnectionResetError:
            return True

    def rest(self) -> bytes:
        """All that comes until the server closes."""
        return self._file.read()

    def _headers(self) -> Iterator[tuple[str, str]]:
        while (line := self._file.readline()) != b"\r\n":
            name, colon, value = line.decode("utf-8").removesuffix("\r\n").partition(": ")
            assert colon, f"no header line: {line!r}"
            yield name, value

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = int(self._file.readline(), 16)
            data = self._file.read(size)
            assert self._file.read(2) == b"\r\n"
            if not size:
                return
            yield data


@contextmanager
def connected(port: int) -> Iterator[Line]:
    """A connection to a port of this machine."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        yield Line(sock)


def request(method: str, target: str, body: bytes | None = None, *headers: str) -> bytes:
    """The bytes of a request with just these header lines, Host and the body's length."""
    lines = [f"{method} {target} HTTP/1.1", "Host: there", *headers]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def ask(port: int, method: str, target: str, body: bytes | None = None, *headers: str) -> Reply:
    """Send one request on a connection of its own."""
    with connected(port) as line:
        line.send(request(method, target, body, *headers))
        return line.read(bodiless=method == "HEAD")


def pretty(value: object) -> bytes:
    """What TorchServe's gson made of an object: indented, and a line feed behind it (§4.7)."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def error(code: int, type: str, message: str) -> bytes:
    """The body of an error (§4.8)."""
    return pretty({"code": code, "type": type, "message": message})
