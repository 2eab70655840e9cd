"""Messages as bytes: the framing between the server and a worker.

A frame is an 8-byte payload length, a 1-byte kind and the payload; integers are big-endian.
What is sent once per worker (Load, Loaded, Log) is JSON; what is sent per batch is packed by hand,
so that a batch costs a few `struct` calls and no copy of a large body. Never a pickle.
Used by `backend` and `runtime`; standard library only, Python 3.9 syntax.
"""

from __future__ import annotations

import json
from functools import lru_cache
from struct import Struct
from struct import error as StructError
from typing import Any, Callable, Dict, List, Tuple

from ts_worker.messages import (
    Buffer,
    Call,
    CallReply,
    Cancel,
    InputChunk,
    Load,
    Loaded,
    Log,
    Message,
    Metric,
    Param,
    Predict,
    Reply,
    ReplyChunk,
    Request,
    Response,
    Threads,
)

FRAME = Struct("!QB")  # payload length, kind
_PREDICT = Struct("!QH")  # batch id, number of requests
_REQUEST = Struct("!BII")  # lengths of id and headers, number of params
_PARAM = Struct("!IIQ")  # lengths of name, content type and value
_REPLY = Struct("!QiIH")  # batch id, code, length of message, number of responses
_RESPONSE = Struct("!BiIIQ")  # length of id, status, lengths of reason, headers and body
_CHUNK = Struct("!B?")  # length of id, last
_CALL = Struct("!QHH")  # call id, lengths of model name and version
_CALL_REPLY = Struct("!QHI?")  # call id, code, length of message, whether a response follows
_THREADS = Struct("!H")
_METRIC = Struct("!dI")  # value, length of the series; the request ids follow it

HEADER_SIZE = FRAME.size
SMALL = 16384  # joining pieces up to this size costs less than another iovec entry

Pieces = List[Buffer]


class WireError(Exception):
    """Bytes that are no frame of ours: the two sides do not belong to one version."""


# The inputs of requests have few names and types: both sides know them again. Long ones, which a
# client may make up, would take memory.
_KNOWN = 128


@lru_cache(maxsize=1024)
def _pack_names(name: str, content_type: str) -> Tuple[int, int, bytes]:
    encoded = name.encode("utf-8", "surrogateescape")
    encoded_type = content_type.encode("utf-8", "surrogateescape")
    return len(encoded), len(encoded_type), encoded + encoded_type


def _request_pieces(request: Request, out: Pieces) -> None:
    request_id, headers, params = request
    out += (_REQUEST.pack(len(request_id), len(headers), len(params)), request_id, headers)
    for name, content_type, value in params:
        pack = _pack_names if len(name) + len(content_type) < _KNOWN else _pack_names.__wrapped__
        name_size, type_size, names = pack(name, content_type)
        out += (_PARAM.pack(name_size, type_size, len(value)), names, value)


def _response_pieces(response: Response, out: Pieces) -> None:
    request_id, status, reason, headers, body = response
    encoded = reason.encode("utf-8", "surrogateescape") if reason else b""
    out += (
        _RESPONSE.pack(len(request_id), status, len(encoded), len(headers), len(body)),
        request_id,
        encoded,
        headers,
        body,
    )


def _encode_predict(message: Predict, out: Pieces) -> None:
    batch_id, requests = message
    out.append(_PREDICT.pack(batch_id, len(requests)))
    for request in requests:
        _request_pieces(request, out)


def _encode_reply(message: Reply, out: Pieces) -> None:
    batch_id, code, words, responses = message
    text = words.encode("utf-8", "backslashreplace") if words else b""
    out += (_REPLY.pack(batch_id, code, len(text), len(responses)), text)
    for response in responses:
        _response_pieces(response, out)


def _encode_reply_chunk(message: ReplyChunk, out: Pieces) -> None:
    _response_pieces(Response(*message), out)


def _encode_input_chunk(message: InputChunk, out: Pieces) -> None:
    out += (_CHUNK.pack(len(message.request_id), message.last), message.request_id, message.data)


def _encode_cancel(message: Cancel, out: Pieces) -> None:
    out.append(message.request_id)


def _encode_threads(message: Threads, out: Pieces) -> None:
    out.append(_THREADS.pack(message.number))


def _encode_call(message: Call, out: Pieces) -> None:
    name, version = message.model_name.encode(), message.model_version.encode()
    out += (_CALL.pack(message.call_id, len(name), len(version)), name, version)
    _request_pieces(message.request, out)


def _encode_call_reply(message: CallReply, out: Pieces) -> None:
    text = message.message.encode("utf-8", "backslashreplace")
    there = message.response is not None
    out += (_CALL_REPLY.pack(message.call_id, message.code, len(text), there), text)
    if message.response is not None:
        _response_pieces(message.response, out)


def _encode_json(message: Tuple[Any, ...], out: Pieces) -> None:
    out.append(json.dumps(message, ensure_ascii=True, separators=(",", ":")).encode())


def _encode_metric(message: Metric, out: Pieces) -> None:
    name, unit, kind, value, dimensions, request_ids = message
    series = _pack_series(name, unit, kind, dimensions)
    out += (_METRIC.pack(value, len(series)), series, request_ids.encode("utf-8", "replace"))


# A handler observes the same few series for each batch: both sides keep what they look like.
@lru_cache(maxsize=1024)
def _pack_series(name: str, unit: str, kind: str, dimensions: Tuple[Tuple[str, str], ...]) -> bytes:
    return json.dumps((name, unit, kind, dimensions), separators=(",", ":")).encode()


@lru_cache(maxsize=1024)
def _unpack_series(packed: bytes) -> Tuple[str, str, str, Tuple[Tuple[str, str], ...]]:
    name, unit, kind, dimensions = json.loads(packed)
    return name, unit, kind, tuple((key, value) for key, value in dimensions)


@lru_cache(maxsize=1024)
def _known_text(encoded: bytes) -> str:
    return encoded.decode("utf-8", "surrogateescape")


def _text(encoded: bytes) -> str:
    read = _known_text if len(encoded) < _KNOWN else _known_text.__wrapped__
    return read(encoded)


def _read_request(data: Any, at: int) -> Tuple[Request, int]:
    id_size, headers_size, count = _REQUEST.unpack_from(data, at)
    at += _REQUEST.size
    headers_at = at + id_size
    request_id = bytes(data[at:headers_at])
    at = headers_at + headers_size
    headers = bytes(data[headers_at:at])
    params = []
    for _ in range(count):
        name_size, type_size, value_size = _PARAM.unpack_from(data, at)
        at += _PARAM.size
        type_at = at + name_size
        value_at = type_at + type_size
        name, content_type = bytes(data[at:type_at]), bytes(data[type_at:value_at])
        at = value_at + value_size
        params.append(Param(_text(name), _text(content_type), data[value_at:at]))
    return Request(request_id, headers, tuple(params)), at


def _read_response(data: Any, at: int) -> Tuple[Response, int]:
    id_size, status, reason_size, headers_size, body_size = _RESPONSE.unpack_from(data, at)
    at += _RESPONSE.size
    reason_at = at + id_size
    request_id = bytes(data[at:reason_at])
    headers_at = reason_at + reason_size
    reason = str(data[reason_at:headers_at], "utf-8", "surrogateescape") if reason_size else ""
    at = headers_at + headers_size
    headers = bytes(data[headers_at:at]) if headers_size else b""
    return Response(request_id, status, reason, headers, data[at : at + body_size]), at + body_size


def _decode_predict(data: Any) -> Predict:
    batch_id, count = _PREDICT.unpack_from(data)
    at = _PREDICT.size
    requests = []
    for _ in range(count):
        request, at = _read_request(data, at)
        requests.append(request)
    return Predict(batch_id, tuple(requests))


def _decode_reply(data: Any) -> Reply:
    batch_id, code, size, count = _REPLY.unpack_from(data)
    at = _REPLY.size + size
    message = str(data[_REPLY.size : at], "utf-8") if size else ""
    responses = []
    for _ in range(count):
        response, at = _read_response(data, at)
        responses.append(response)
    return Reply(batch_id, code, message, tuple(responses))


def _decode_reply_chunk(data: Any) -> ReplyChunk:
    return ReplyChunk(*_read_response(data, 0)[0])


def _decode_input_chunk(data: Any) -> InputChunk:
    size, last = _CHUNK.unpack_from(data)
    start = _CHUNK.size
    return InputChunk(bytes(data[start : start + size]), last, data[start + size :])


def _decode_call(data: Any) -> Call:
    call_id, name_size, version_size = _CALL.unpack_from(data)
    at = _CALL.size
    name = str(data[at : at + name_size], "utf-8")
    at += name_size
    version = str(data[at : at + version_size], "utf-8")
    return Call(call_id, name, version, _read_request(data, at + version_size)[0])


def _decode_call_reply(data: Any) -> CallReply:
    call_id, code, size, there = _CALL_REPLY.unpack_from(data)
    at = _CALL_REPLY.size + size
    message = str(data[_CALL_REPLY.size : at], "utf-8")
    return CallReply(call_id, code, message, _read_response(data, at)[0] if there else None)


def _decode_load(data: Any) -> Load:
    fields = json.loads(bytes(data))
    load = Load(*fields)
    env = None if load.env is None else tuple((name, value) for name, value in load.env)
    return load._replace(import_paths=tuple(load.import_paths), env=env)


def _decode_metric(data: Any) -> Metric:
    value, size = _METRIC.unpack_from(data)
    end = _METRIC.size + size
    name, unit, kind, dimensions = _unpack_series(bytes(data[_METRIC.size : end]))
    return Metric(name, unit, kind, value, dimensions, str(data[end:], "utf-8"))


_ENCODERS: Dict[type, Tuple[int, Callable[[Any, Pieces], None]]] = {
    Load: (1, _encode_json),
    Loaded: (2, _encode_json),
    Predict: (3, _encode_predict),
    InputChunk: (4, _encode_input_chunk),
    Cancel: (5, _encode_cancel),
    Threads: (6, _encode_threads),
    Reply: (7, _encode_reply),
    ReplyChunk: (8, _encode_reply_chunk),
    Log: (9, _encode_json),
    Metric: (10, _encode_metric),
    Call: (11, _encode_call),
    CallReply: (12, _encode_call_reply),
}

_DECODERS: Dict[int, Callable[[Any], Message]] = {
    1: _decode_load,
    2: lambda data: Loaded(*json.loads(bytes(data))),
    3: _decode_predict,
    4: _decode_input_chunk,
    5: lambda data: Cancel(bytes(data)),
    6: lambda data: Threads(*_THREADS.unpack(data)),
    7: _decode_reply,
    8: _decode_reply_chunk,
    9: lambda data: Log(*json.loads(bytes(data))),
    10: _decode_metric,
    11: _decode_call,
    12: _decode_call_reply,
}


def encode(message: Message) -> Pieces:
    """Turn a message into pieces to be written one after another.

    Small frames are one piece; a large body stays the caller's own buffer, uncopied.
    """
    kind, write = _ENCODERS[type(message)]
    pieces: Pieces = [b""]
    write(message, pieces)
    size = sum(map(len, pieces))
    pieces[0] = FRAME.pack(size, kind)
    return [b"".join(pieces)] if size <= SMALL else pieces


def decode(kind: int, payload: Any) -> Message:
    """Turn a frame's payload (bytes, or a memoryview that the message may keep) into a message.

    Raises:
        WireError: an unknown kind or a payload that does not fit it.
    """
    try:
        return _DECODERS[kind](payload)
    except (StructError, KeyError, ValueError, TypeError, IndexError) as error:
        raise WireError(f"frame of kind {kind} can't be read: {error!r}") from error
