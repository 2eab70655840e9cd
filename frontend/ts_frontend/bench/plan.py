"""What is to be measured: the requests, where they go, and how many at once.

`cli` makes these from the options; they travel to the other processes of the client as JSON.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote


@dataclass(frozen=True, slots=True)
class Input:
    """A request's body, and the answer it must get; None where any with status 200 will do."""

    body: bytes = b""
    content_type: str = ""
    expect: bytes | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """A model of a running server, and the requests for it, which are sent in turns.

    Args:
        path: of the URL, escaped: where the model answers.
        unix: a socket's path, to connect to in place of host and port.
        timeout: seconds after which a request without an answer is an error.
    """

    host: str
    port: int
    path: str
    inputs: tuple[Input, ...]
    tls: bool = False
    insecure: bool = False
    unix: str | None = None
    token: str | None = None
    timeout: float = 120.0

    def requests(self) -> tuple[bytes, ...]:
        """Each input as the bytes of an HTTP/1.1 request."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {host}:{self.port}", "Accept: */*"]
        if self.token is not None:
            lines.append(f"Authorization: Bearer {self.token}")
        return tuple(_request(lines, one) for one in self.inputs)


@dataclass(frozen=True, slots=True)
class Level:
    """One load: so many connections, each of which waits for its answer before it sends again.

    Args:
        rate: requests a second, sent when they are due, whether or not answers are back; of
            connections there are then as many as that takes, up to the number given.
        warmup: seconds of the same load before anything is counted.
        seconds: how long answers are counted.
        requests: how many requests to count, in place of a time.
        seed: of the times at which requests are due.
    """

    connections: int
    rate: float | None = None
    warmup: float = 1.0
    seconds: float = 5.0
    requests: int | None = None
    seed: int = 0

    def shares(self, processes: int) -> list[Level]:
        """The parts of this level for several processes, none of them without work."""
        most = min(processes, self.connections, self.requests or processes)
        return [
            replace(
                self,
                connections=_share(self.connections, most, index),
                # Independent Poisson processes add up to one.
                rate=None if self.rate is None else self.rate / most,
                requests=None if self.requests is None else _share(self.requests, most, index),
                seed=self.seed + index,
            )
            for index in range(most)
        ]


def model_path(prefix: str, model: str, version: str | None) -> str:
    """The path of a model's predictions, behind the path of a server's URL."""
    names = [model] if version is None else [model, version]
    return "/".join([prefix.rstrip("/"), "predictions", *(quote(name, safe="") for name in names)])


def dumps(target: Target) -> str:
    """A target as JSON."""
    return json.dumps(asdict(target), default=lambda value: b64encode(value).decode())


def loads(text: str) -> Target:
    """The target that `dumps` wrote."""
    fields = json.loads(text)
    inputs = tuple(_input(one) for one in fields.pop("inputs"))
    return Target(**fields, inputs=inputs)


def _input(fields: Mapping[str, Any]) -> Input:
    expect = fields["expect"]
    return Input(
        b64decode(fields["body"]),
        fields["content_type"],
        None if expect is None else b64decode(expect),
    )


def _request(lines: list[str], one: Input) -> bytes:
    own = [f"Content-Type: {one.content_type}"] if one.content_type else []
    head = [*lines, *own, f"Content-Length: {len(one.body)}", "", ""]
    return "\r\n".join(head).encode("utf-8", "surrogateescape") + one.body


def _share(total: int, parts: int, index: int) -> int:
    return total // parts + (index < total % parts)
