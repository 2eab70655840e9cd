"""Cuts a multipart/form-data body into its parts (RFC 7578), without copying their contents.

Called by `body` with a body that is complete in memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

from ts_frontend.errors import BadRequest
from ts_worker.messages import Param

_PARAMETER = re.compile(r';\s*([^\s=;]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))')
_ESCAPED = re.compile(r"\\([\"\\])")
MAX_PART_HEAD = 8192  # bytes, as the limit of a request's own headers


def boundary_of(parameters: str) -> bytes:
    """Return the boundary among a Content-Type's parameters, b"" when there is none."""
    return _parameters(";" + parameters).get("boundary", "").encode("utf-8", "surrogateescape")


def split_parts(body: bytes, boundary: bytes) -> Iterator[Param]:
    """Yield the named parts of a form in order; values are views of ``body``.

    A part with a filename keeps its Content-Type, without parameters and by default
    application/octet-stream; one without a filename has none, whatever it declares (§4.4).

    Raises:
        BadRequest: the body isn't multipart with this boundary, or it is cut off.
    """
    delimiter = b"\r\n--" + boundary
    view = memoryview(body)
    # The first delimiter may stand at the very start, without a line break before it.
    if body.startswith(delimiter[2:]):
        position = len(delimiter) - 2
    else:
        position = _find(body, delimiter, 0) + len(delimiter)
        if position < len(delimiter):
            raise BadRequest("The multipart body does not contain its boundary.")
    while not body.startswith(b"--", position):
        line_end = body.find(b"\r\n", position)
        end = _find(body, delimiter, position)
        if line_end < 0 or end < 0:
            raise BadRequest("The multipart body ends before its closing boundary.")
        # A part without headers starts with the empty line right away.
        head_end = body.find(b"\r\n\r\n", line_end, end + 4)
        if head_end < 0:
            raise BadRequest("A part of the multipart body has no end of its headers.")
        if head_end - line_end > MAX_PART_HEAD:
            raise BadRequest(f"A part's headers are larger than {MAX_PART_HEAD} bytes.")
        head = body[line_end + 2 : max(head_end, line_end + 2)]
        yield _part(head.decode("utf-8", "replace"), view[head_end + 4 : max(end, head_end + 4)])
        position = end + len(delimiter)


def _find(body: bytes, delimiter: bytes, start: int) -> int:
    # A content line may begin with the boundary and go on: that is not the boundary.
    while True:
        found = body.find(delimiter, start)
        behind = body[found + len(delimiter) : found + len(delimiter) + 2]
        if found < 0 or behind in (b"\r\n", b"--") or behind[:1] in (b" ", b"\t"):
            return found
        start = found + 1


def _part(head: str, value: memoryview) -> Param:
    headers: dict[str, str] = {}
    for line in head.split("\r\n"):
        name, _, text = line.partition(":")
        headers[name.strip().lower()] = text.strip()
    disposition = _parameters(headers.get("content-disposition", ""))
    if "name" not in disposition:
        raise BadRequest("A part of the multipart body has no name in its Content-Disposition.")
    name = disposition["name"]
    if "filename" not in disposition and "filename*" not in disposition:
        return Param(name, "", value)
    content_type = headers.get("content-type", "").partition(";")[0]
    return Param(name, content_type or "application/octet-stream", value)


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(text):
        name, quoted, bare = match.groups()
        value = bare.strip() if quoted is None else _unquoted(quoted)
        found[name.lower()] = unquote(value) if name.endswith("*") else value
    return found


def _unquoted(text: str) -> str:
    # Browsers write a quote in a name as %22, other clients with a backslash.
    return _ESCAPED.sub(r"\1", text).replace("%22", '"')
