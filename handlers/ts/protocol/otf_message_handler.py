"""TorchServe's own worker wire: its requests decoded, its replies encoded, byte for byte.

Our worker speaks another protocol (`ts_worker.wire`); this one is here for handlers, tests and
tools that call it by name, and for `Service.predict`. Big-endian signed 32-bit lengths.
"""

from __future__ import annotations

import json
import logging
import os
import struct
import sys
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ts.context import Context
from ts.prediction import (
    STREAM_NEXT,
    UNSUPPORTED_OUTPUT,
    Prediction,
    UnsupportedOutput,
    encode_body,
    mark_stream,
    prediction,
)
from ts.utils.util import deprecated

logger = logging.getLogger(__name__)

bool_size = 1
int_size = 4
END_OF_LIST = -1
LOAD_MSG = b"L"
PREDICT_MSG = b"I"
RESPONSE = 3

_INT = struct.Struct("!i")


def retrieve_msg(conn: Any) -> Tuple[bytes, Any]:
    """Read one message from a socket: (``b"L"``, dict), or (``b"I"``, list of requests).

    Raises:
        ValueError: an unknown command.
        SystemExit: the other side has closed, as TorchServe's worker does.
    """
    command = bytes(_read(conn, 1))
    if command == LOAD_MSG:
        return command, _read_load(conn)
    if command == PREDICT_MSG:
        return command, _read_requests(conn)
    raise ValueError(f"Invalid command: {command!r}")


def create_load_model_response(code: int, message: str) -> bytearray:
    """The reply to a load message."""
    reply = bytearray()
    _put_int(reply, code)
    _put_text(reply, message)
    _put_int(reply, END_OF_LIST)
    return reply


def create_predict_response(
    ret: Optional[Sequence[Any]],
    req_id_map: Mapping[int, str],
    message: str,
    code: int,
    context: Optional[Context] = None,
    ts_stream_next: bool = False,
) -> Optional[bytearray]:
    """The reply to a batch.

    Args:
        ret: one result per request, indexed by the keys of ``req_id_map``; None for an error.
        code: of the whole batch, and of each request where there is no ``context``.
        context: where status and headers come from.
        ts_stream_next: announce that more of each answer will come.

    Returns:
        The bytes, or None on ranks other than 0 of a distributed model, which stay silent.
    """
    try:
        predictions = [_prediction(ret, idx, code, context, ts_stream_next) for idx in req_id_map]
    except UnsupportedOutput:
        logger.warning(UNSUPPORTED_OUTPUT, exc_info=True)
        return create_predict_response(None, req_id_map, UNSUPPORTED_OUTPUT, 503)
    return encode_predictions(req_id_map, predictions, message, code)


def encode_predictions(
    req_id_map: Mapping[int, str], predictions: Sequence[Prediction], message: str, code: int
) -> Optional[bytearray]:
    """Encode a batch's reply; without predictions every request gets the body ``error``."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return None
    answers = list(predictions) or [Prediction(code, "", {}, b"error")] * len(req_id_map)
    reply = bytearray()
    _put_int(reply, code)
    _put_text(reply, message)
    for request_id, answer in zip(req_id_map.values(), answers):
        _put_text(reply, request_id)
        _put_text(reply, answer.headers.get("content-type", ""))
        _put_int(reply, answer.status)
        _put_text(reply, answer.reason)
        reply += encode_response_headers(answer.headers)
        _put_bytes(reply, answer.body)
    _put_int(reply, END_OF_LIST)
    return reply


def encode_response_headers(resp_hdr_map: Mapping[str, str]) -> bytearray:
    """The number of headers, then names and values."""
    encoded = bytearray()
    _put_int(encoded, len(resp_hdr_map))
    for name, value in resp_hdr_map.items():
        _put_text(encoded, name)
        _put_text(encoded, value)
    return encoded


@deprecated(
    version="1.0.0",
    replacement="ts.handler_utils.utils.send_intermediate_predict_response",
)
def send_intermediate_predict_response(
    ret: Any, req_id_map: Mapping[int, str], message: str, code: int, context: Any = None
) -> None:
    """The former place of `ts.handler_utils.utils.send_intermediate_predict_response`."""
    from ts.handler_utils import utils

    utils.send_intermediate_predict_response(ret, req_id_map, message, code, context)


def _prediction(
    ret: Optional[Sequence[Any]],
    idx: int,
    code: int,
    context: Optional[Context],
    ts_stream_next: bool,
) -> Prediction:
    value = b"error" if ret is None else ret[idx]
    if context is None:
        return Prediction(code, "", {}, encode_body(value))
    if ts_stream_next:
        context.set_response_header(idx, STREAM_NEXT, "true")
    else:
        mark_stream(context, idx, value)
    return prediction(context, idx, value)


def _put_int(target: bytearray, number: int) -> None:
    target += _INT.pack(number)


def _put_bytes(target: bytearray, value: Any) -> None:
    target += _INT.pack(len(value))
    target += value


def _put_text(target: bytearray, text: str) -> None:
    # The length is that of the bytes; TorchServe counts characters and breaks its own frames.
    _put_bytes(target, text.encode("utf-8"))


def _read(conn: Any, length: int) -> bytearray:
    data = bytearray()
    while len(data) < length:
        part = conn.recv(length - len(data))
        if not part:
            logger.info("Frontend disconnected.")
            sys.exit(0)
        data += part
    return data


def _read_int(conn: Any) -> int:
    number: int = _INT.unpack(_read(conn, int_size))[0]
    return number


def _read_field(conn: Any) -> bytearray:
    return _read(conn, _read_int(conn))


def _read_load(conn: Any) -> Dict[str, Any]:
    message: Dict[str, Any] = {"modelName": _read_field(conn), "modelPath": _read_field(conn)}
    message["batchSize"] = _read_int(conn)
    message["handler"] = _read_field(conn)
    gpu = _read_int(conn)
    if gpu >= 0:
        message["gpu"] = gpu
    message["envelope"] = _read_field(conn)
    message["limitMaxImagePixels"] = bool(_read(conn, bool_size)[0])
    return message


def _read_requests(conn: Any) -> List[Dict[str, Any]]:
    requests: List[Dict[str, Any]] = []
    while True:
        length = _read_int(conn)
        if length == END_OF_LIST:
            return requests
        request: Dict[str, Any] = {"requestId": _read(conn, length)}
        request["headers"] = _read_headers(conn)
        request["parameters"] = _read_parameters(conn)
        requests.append(request)


def _read_headers(conn: Any) -> List[Dict[str, bytearray]]:
    headers: List[Dict[str, bytearray]] = []
    while True:
        length = _read_int(conn)
        if length == END_OF_LIST:
            return headers
        headers.append({"name": _read(conn, length), "value": _read_field(conn)})


def _read_parameters(conn: Any) -> List[Dict[str, Any]]:
    parameters: List[Dict[str, Any]] = []
    while True:
        length = _read_int(conn)
        if length == END_OF_LIST:
            return parameters
        name = _read(conn, length).decode("utf-8")
        content_type = _read_field(conn).decode("utf-8")
        value = _decode(content_type, _read_field(conn))
        parameters.append({"name": name, "contentType": content_type, "value": value})


def _decode(content_type: str, value: bytearray) -> Any:
    """Parsed JSON, text or the bytes, by the content type and TS_DECODE_INPUT_REQUEST."""
    if os.environ.get("TS_DECODE_INPUT_REQUEST", "true") != "true":
        return value
    try:
        if content_type == "application/json":
            return json.loads(value.decode("utf-8"))
        if content_type.startswith("text"):
            return value.decode("utf-8")
    except ValueError:
        logger.warning("Failed to decode an input of type %s; passing its bytes", content_type)
    return value
