"""What a handler's return value becomes on its way to the client.

Used by `ts.service`, by `ts.protocol.otf_message_handler` and for streamed chunks. torch is
looked up, never imported: a handler without it never returns a tensor.
"""

from __future__ import annotations

import io
import json
import sys
from functools import lru_cache
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

from ts.context import Context

STREAM_NEXT = "ts_stream_next"
UNSUPPORTED_OUTPUT = "Unsupported model output data type."

_NUMBERS = frozenset((int, float))
_SCALARS = frozenset((str, int, float, bool, type(None)))


class Prediction(NamedTuple):
    """One request's answer."""

    status: int
    reason: str  # "" unless the handler chose one
    headers: Dict[str, str]  # content-type only where the handler set it
    body: Union[bytes, bytearray]


class Outcome(NamedTuple):
    """What one call of the handler came to.

    With any ``code`` but 200, ``message`` answers every request; ``blamed`` has the rows that the
    error is about, where it says so: then it answers these, and the others may run again.
    """

    code: int
    message: str
    predictions: List[Prediction]  # one per row in order; [] unless code is 200
    blamed: Tuple[int, ...] = ()
    took: float = 0.0  # milliseconds in the handler; 0 unless code is 200
    held: Any = None  # its `HeldMetrics`, where rows may be run again


class UnsupportedOutput(TypeError):
    """A handler returned something that has no place in an HTTP body."""


def encode_body(value: Any) -> Union[bytes, bytearray]:
    """Serialise one element of a handler's result exactly as TorchServe does.

    bytes as they are, str as UTF-8, a tensor as a `torch.save` stream, all else as
    ``json.dumps(value, indent=2)``.

    Raises:
        UnsupportedOutput: it is none of these, e.g. a numpy scalar inside a dict.
    """
    if isinstance(value, (bytes, bytearray)):
        return value
    # Importing torch would cost seconds; without it nobody can have made a tensor.
    torch = sys.modules.get("torch")
    try:
        if isinstance(value, str):
            return value.encode("utf-8")
        if torch is not None and isinstance(value, torch.Tensor):
            stream = io.BytesIO()
            torch.save(value, stream)
            return stream.getvalue()
        return dumps(value).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise UnsupportedOutput(f"{type(value).__name__}: {error}") from error


def dumps(value: Any) -> str:
    """``json.dumps(value, indent=2)`` to the character, in half the time or less.

    Python's indented encoder is pure Python; its C encoder knows no indent, but it takes an item
    separator, and that may hold the line break of the level it writes.
    """
    try:
        text = _indented(value, "\n")
    except RecursionError:
        text = None
    return json.dumps(value, indent=2) if text is None else text


_PLAIN = json.JSONEncoder().encode


@lru_cache(maxsize=64)
def _encoder(inner: str) -> Callable[[Any], str]:
    """What writes the items of a level that begins its lines so. `json.dumps` would make an encoder
    for each call."""
    return json.JSONEncoder(separators=("," + inner, ": ")).encode


def _indented(value: Any, newline: str) -> Optional[str]:
    """The indented text, or None for anything that only `json.dumps` itself should judge."""
    kind = type(value)
    if kind is dict:
        return _indented_dict(value, newline)
    if kind is list or kind is tuple:
        return _indented_list(value, newline)
    return _PLAIN(value) if kind in _SCALARS else None


def _indented_list(items: Any, newline: str) -> Optional[str]:
    if not items:
        return "[]"
    inner = newline + "  "
    kinds = set(map(type, items))
    if kinds <= _NUMBERS:
        text = f",{inner}".join(map(repr, items))
        # NaN and Infinity have names of their own in JSON; both reprs have an n.
        if "n" not in text:
            return f"[{inner}{text}{newline}]"
    if kinds <= _SCALARS:
        return f"[{inner}{_encoder(inner)(items)[1:-1]}{newline}]"
    parts = [_indented(item, inner) for item in items]
    if None in parts:
        return None
    return f"[{inner}{(',' + inner).join(parts)}{newline}]"  # type: ignore[arg-type]


def _indented_dict(items: Dict[Any, Any], newline: str) -> Optional[str]:
    if not items:
        return "{}"
    if not {str}.issuperset(map(type, items)):
        return None
    inner = newline + "  "
    if _SCALARS.issuperset(map(type, items.values())):
        return f"{{{inner}{_encoder(inner)(items)[1:-1]}{newline}}}"
    parts = []
    for key, item in items.items():
        text = _indented(item, inner)
        if text is None:
            return None
        parts.append(f"{_PLAIN(key)}: {text}")
    return f"{{{inner}{(',' + inner).join(parts)}{newline}}}"


def text_headers(headers: Dict[Any, Any]) -> Dict[str, str]:
    """Response headers with names and values as str, whatever the handler put in."""
    return {_text(name): _text(value) for name, value in headers.items()}


def _text(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return value.decode("latin-1")
    return value if type(value) is str else str(value)


def mark_stream(context: Context, idx: int, value: Any) -> None:
    """Tell with the header ``ts_stream_next`` whether more of request ``idx`` will come.

    A handler's ``context.stopping_criteria[idx]`` decides where there is one (None leaves the
    header alone); otherwise a request that has streamed ends with its final value.
    """
    if context.stopping_criteria:
        done = context.stopping_criteria[idx](value)
        if done is not None:
            context.set_response_header(idx, STREAM_NEXT, "false" if done else "true")
    elif context.get_response_headers(idx).get(STREAM_NEXT) == "true":
        context.set_response_header(idx, STREAM_NEXT, "false")


def prediction(context: Context, idx: int, value: Any) -> Prediction:
    """Build the answer to request ``idx``: status and headers as set on the context.

    Raises:
        UnsupportedOutput: the value has no serialisation, or the status is no number.
    """
    processor = context.request_processor[idx]
    status, reason = processor.get_response_status_code(), processor.get_response_status_phrase()
    headers = processor.get_response_headers()
    try:
        code = 200 if status is None else int(status)
    except (TypeError, ValueError) as error:
        raise UnsupportedOutput(f"response status {status!r} is no number") from error
    text = text_headers(headers) if headers else {}
    return Prediction(code, _text(reason) if reason else "", text, encode_body(value))
