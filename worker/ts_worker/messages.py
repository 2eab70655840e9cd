"""Everything the server and a worker can say to each other, as plain immutable tuples.

Built and read on both sides of the process line; `wire` turns them into bytes and back.
Standard library only and Python 3.9 syntax, because a model may run in an older interpreter.
"""

from __future__ import annotations

from typing import NamedTuple, Optional, Tuple, Union

Buffer = Union[bytes, bytearray, memoryview]


class Param(NamedTuple):
    """One input of a request: a body, a form field or a query parameter."""

    name: str
    content_type: str  # exactly as sent, without parameters; "" when there was none
    value: Buffer


class Request(NamedTuple):
    """One prediction request as the handler will see it.

    ``headers`` is ``name NUL value NUL name NUL value``, names in the case the client sent:
    HTTP forbids NUL in both, and one ``split`` decodes them all.
    """

    id: bytes  # 36 ASCII characters, the same UUID as the x-request-id response header
    headers: bytes
    params: Tuple[Param, ...]


class Response(NamedTuple):
    """One row's answer. ``headers`` is packed like those of a request."""

    request_id: bytes
    status: int
    reason: str  # "" unless the handler chose one
    headers: bytes
    body: Buffer


class Load(NamedTuple):
    """Load this model; the first frame a worker gets, answered by `Loaded`."""

    model_name: str
    model_version: str
    model_dir: str
    handler: str
    batch_size: int
    gpu_id: Optional[int]
    envelope: Optional[str]
    limit_max_image_pixels: bool
    decode_input_request: bool
    metrics_config: Optional[str]
    threads: int  # torch threads of this worker; 0 leaves torch's own choice
    import_paths: Tuple[str, ...]  # go first on sys.path, in this order
    env: Optional[Tuple[Tuple[str, str], ...]]  # replaces os.environ; None keeps it
    prefetch: bool = False  # prepare the batches that come while the handler is at an earlier one
    rank: int = 0  # among the processes of this worker; only rank 0 answers
    in_step: bool = False  # the other ranks are sent each batch as well


class Loaded(NamedTuple):
    """The answer to `Load`. ``traceback`` is empty when ``code`` is 200."""

    code: int
    message: str
    traceback: str


class Predict(NamedTuple):
    """A batch of requests to run in one call of the handler."""

    batch_id: int
    requests: Tuple[Request, ...]


class InputChunk(NamedTuple):
    """More of a request's body, for a request that was sent before its body was complete."""

    request_id: bytes
    last: bool
    data: Buffer


class Cancel(NamedTuple):
    """Nobody waits for this request any more."""

    request_id: bytes


class Threads(NamedTuple):
    """The number of workers changed: compute with this many threads from now on."""

    number: int


class Reply(NamedTuple):
    """Final answers to a batch.

    It answers the requests named in ``responses``, which may be some of the batch only: the batch
    ends when each of its requests has been answered. With a ``code`` other than 200 the answer is
    an error with ``message``; then no ``responses`` means each request that is still open.
    Code 200 without ``responses`` answers nothing and says that the worker is still at it.
    """

    batch_id: int
    code: int
    message: str
    responses: Tuple[Response, ...]


class ReplyChunk(NamedTuple):
    """Part of one request's answer, with more to come. Only the first chunk's head counts."""

    request_id: bytes
    status: int
    reason: str
    headers: bytes
    body: Buffer


class Log(NamedTuple):
    """One record that a handler logged. ``level`` is a number of the logging module."""

    level: int
    logger: str
    text: str
    request_ids: str = ""  # of the batch that ran in the thread that logged, comma separated


class Metric(NamedTuple):
    """One observation of a model metric."""

    name: str
    unit: str  # long form: Milliseconds, Count, ...
    type: str  # counter, gauge or histogram
    value: float
    dimensions: Tuple[Tuple[str, str], ...]
    request_ids: str  # comma separated; "" outside a batch


class Call(NamedTuple):
    """A handler asks for another model's prediction."""

    call_id: int
    model_name: str
    model_version: str  # "" for the default version
    request: Request


class CallReply(NamedTuple):
    """The answer to `Call`: code 200 and a response, or an error's code and message."""

    call_id: int
    code: int
    message: str
    response: Optional[Response]


Message = Union[
    Load,
    Loaded,
    Predict,
    InputChunk,
    Cancel,
    Threads,
    Reply,
    ReplyChunk,
    Log,
    Metric,
    Call,
    CallReply,
]


def pack_headers(pairs: list[tuple[str, str]]) -> bytes:
    """Pack name and value pairs into the form `Request` and `Response` carry."""
    return "\0".join([part for pair in pairs for part in pair]).encode("utf-8", "surrogateescape")


def unpack_headers(packed: bytes) -> list[tuple[str, str]]:
    """Undo `pack_headers`."""
    if not packed:
        return []
    parts = packed.decode("utf-8", "surrogateescape").split("\0")
    return list(zip(parts[::2], parts[1::2]))
