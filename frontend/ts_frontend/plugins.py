"""What a package that adds endpoints to the server imports; docs/plugins.md tells how.

It takes the place of TorchServe's Java interface for endpoint plugins. The entry points of the
group lead to `Plugin`s; `endpoints` loads them, `http.plugins` serves what they give.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ts_frontend.errors import BadRequest, ResourceNotFound

__all__ = [
    "GROUP",
    "BadRequest",
    "Endpoint",
    "Plugin",
    "Request",
    "ResourceNotFound",
    "Response",
    "Server",
]

GROUP = "torchserve_py.endpoints"


@dataclass(frozen=True, slots=True)
class Request:
    """One request to an endpoint.

    Args:
        method: in capitals.
        segments: the path, percent-decoded and cut at its slashes: ``("a", "b")`` for /a/b.
        query: names and values in their order, decoded.
        headers: of the client; names in any case find their value.
        body: whole, at most ``max_request_size`` bytes.
        id: what the client gets as x-request-id.
    """

    method: str
    segments: tuple[str, ...]
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    id: str = ""

    def parameter(self, name: str) -> str | None:
        """Return the first value of a name in the query, None without one."""
        return next((value for key, value in self.query if key == name), None)


@dataclass(frozen=True, slots=True)
class Response:
    """What an endpoint answers: a status of 200 to 599, header names and values, bytes."""

    status: int = 200
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""

    @classmethod
    def json(cls, value: object, status: int = 200) -> Response:
        """Answer with JSON in the form of the server's own: indented, one line feed behind it."""
        body = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        return cls(status, (("content-type", "application/json"),), body.encode())

    @classmethod
    def text(cls, text: str, status: int = 200) -> Response:
        """Answer with plain text in UTF-8."""
        return cls(status, (("content-type", "text/plain; charset=utf-8"),), text.encode())


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of the server that a plugin answers, with all that is below it.

    Args:
        path: ``/name`` or ``/name/more``, not percent-encoded. Of several the longest one that
            fits a request answers it.
        handle: an async function. It runs on the server's event loop, so what blocks belongs into
            ``asyncio.to_thread``; it is cancelled when the client goes away.
        methods: all others are answered 405; HEAD goes with GET.
        listener: the API whose address, and whose token, it is served with.
        token: False serves it without a token, for instance to probes.

    Raises:
        ValueError, TypeError: one of them can't be; says which.
    """

    path: str
    handle: Callable[[Request], Awaitable[Response]]
    methods: Sequence[str] = ("GET",)
    listener: Literal["inference", "management"] = "inference"
    token: bool = True

    def __post_init__(self) -> None:
        first, *segments = self.path.split("/")
        if first or not segments or not all(map(_plain, segments)):
            raise ValueError(f"path={self.path!r}: expected /name or /name/more, not encoded")
        if not inspect.iscoroutinefunction(self.handle):
            raise TypeError(f"{self.path}: handle must be an async function")
        methods = self.methods
        if isinstance(methods, str) or not methods or not all(map(_is_method, methods)):
            raise ValueError(f"{self.path}: methods={methods!r}: expected some like ('GET',)")
        if self.listener not in ("inference", "management"):
            raise ValueError(
                f"{self.path}: listener={self.listener!r}: expected inference or management"
            )


class Server(Protocol):
    """What a plugin sees of the server."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Every key of config.properties with its value as JSON has it, but for passwords."""

    async def models(self) -> list[dict[str, Any]]:
        """Each version of each model as ``GET /models/{model}/all`` describes it."""


Plugin = Callable[[Server], Iterable[Endpoint]]


def _plain(segment: str) -> bool:
    return bool(segment) and segment.isprintable() and not set(" %?#") & set(segment)


def _is_method(method: str) -> bool:
    return method.isascii() and method.isalpha() and method.isupper()
