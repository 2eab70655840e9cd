"""Reads HTTP/1.1 answers as their bytes come in.

The usual answer, one piece with a Content-Length, costs one search and no copy of its head: what
the client spends on an answer is missing from what it can drive.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from ts_frontend.bench.errors import LostConnection

_END = b"\r\n\r\n"
_LONGEST_HEAD = 256 * 1024
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r]*chunked[ \t]*\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]+)[ \t]*(?:;[^\r\n]*)?\r\n")


@dataclass(slots=True)
class Answer:
    """A whole answer; ``last`` where the server closes the connection behind it."""

    status: int
    body: bytes
    last: bool = False

    def text(self) -> str:
        """What an error's body says, in a line."""
        shown = self.body[:2000].decode("utf-8", "replace")
        try:
            fields = json.loads(self.body)
        except ValueError:
            fields = None
        if isinstance(fields, dict) and isinstance(fields.get("message"), str):
            shown = fields["message"]
        line = " ".join(shown.split())
        return line if len(line) <= 200 else f"{line[:200]}..."


class AnswerReader:
    """The answers of one connection, one at a time."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: bytes | None = None  # of the answer whose body is coming in
        self._status = 0
        self._length: int | None = None  # of its body; None where chunks or the end tell
        self._chunked = False
        self._body = bytearray()  # of chunks

    def feed(self, data: bytes) -> Answer | None:
        """Take what came in; returns the answer once it is complete.

        Raises:
            LostConnection: this is no HTTP, or more than was asked for.
        """
        self._buffer += data
        while self._head is None:
            if not self._read_head():
                return None
        if self._chunked:
            return self._read_chunks()
        if self._length is None or len(self._buffer) < self._length:
            return None
        return self._finish(bytes(self._buffer[: self._length]), self._length)

    def end(self) -> Answer | None:
        """The connection ended: returns the answer that ends with it, if one does."""
        if self._head is None or self._chunked or self._length is not None:
            return None
        answer = self._finish(bytes(self._buffer), len(self._buffer))
        answer.last = True
        return answer

    def _read_head(self) -> bool:
        at = self._buffer.find(_END)
        if at < 0:
            if not b"HTTP/1.".startswith(self._buffer[:7]) or len(self._buffer) > _LONGEST_HEAD:
                raise LostConnection("no HTTP answer")
            return False
        head = bytes(self._buffer[: at + 2])
        del self._buffer[: at + len(_END)]
        found = _STATUS.match(head)
        if found is None:
            raise LostConnection("no HTTP answer")
        status = int(found[1])
        if status < 200:  # such as 100 Continue: the answer is yet to come
            return True
        self._head, self._status = head, status
        self._chunked = _CHUNKED.search(head) is not None
        length = _LENGTH.search(head)
        self._length = int(length[1]) if length else None
        if status in (204, 304):
            self._chunked, self._length = False, 0
        return True

    def _read_chunks(self) -> Answer | None:
        while True:
            found = _CHUNK.match(self._buffer)
            if found is None:
                if b"\n" in self._buffer:
                    raise LostConnection("no HTTP answer")
                return None
            size, start = int(found[1], 16), found.end()
            if size == 0:
                return self._read_trailer(start)
            if len(self._buffer) < start + size + 2:
                return None
            self._body += self._buffer[start : start + size]
            del self._buffer[: start + size + 2]

    def _read_trailer(self, start: int) -> Answer | None:
        """The end of the last chunk: an empty line, header fields before it or not."""
        if self._buffer[start : start + 2] == b"\r\n":
            return self._finish(bytes(self._body), start + 2)
        at = self._buffer.find(_END, start)
        return None if at < 0 else self._finish(bytes(self._body), at + len(_END))

    def _finish(self, body: bytes, used: int) -> Answer:
        if len(self._buffer) > used:
            raise LostConnection("more than one answer")
        assert self._head is not None
        answer = Answer(self._status, body, _CLOSE.search(self._head) is not None)
        self._head = None
        self._buffer.clear()
        self._body.clear()
        return answer
