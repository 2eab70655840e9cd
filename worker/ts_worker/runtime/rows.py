"""From requests on the wire to what a handler gets: rows, headers, request ids.

Called once per batch by `loop`. The typing rules are TorchServe's: JSON and text are decoded by
their exact content type, everything else is a bytearray.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Dict, List, Tuple

from ts_worker.messages import Param, Request

log = logging.getLogger(__name__)

# Headers, rows and request ids of a batch.
Rows = Tuple[List[Dict[str, Any]], List[Dict[str, Any]], Dict[int, str]]


def rows_of(requests: Tuple[Request, ...], decode: bool) -> Rows:
    """Headers, rows and request ids of a batch, each in the order of its requests.

    Args:
        requests: the batch.
        decode: whether JSON and text bodies are decoded (``decode_input_request``).

    Returns:
        One header dict a row (per input ``{name: {"content-type": type}}``, then the request's
        headers in the case they were sent), one dict of inputs a row, and ids by row number.
    """
    headers: List[Dict[str, Any]] = []
    rows: List[Dict[str, Any]] = []
    ids: Dict[int, str] = {}
    for index, request in enumerate(requests):
        row: Dict[str, Any] = {}
        head: Dict[str, Any] = {}
        for param in request.params:
            row[param.name] = typed(param, decode)
            head[param.name] = {"content-type": param.content_type}
        if request.headers:
            parts = request.headers.decode("utf-8", "surrogateescape").split("\0")
            head.update(zip(parts[::2], parts[1::2]))
        headers.append(head)
        rows.append(row)
        ids[index] = request.id.decode("ascii")
    return headers, rows, ids


def typed(param: Param, decode: bool) -> Any:
    """One input's value as the handler sees it: parsed JSON, str or bytearray.

    What can't be decoded stays a bytearray, with a warning in the model's log.
    """
    kind = param.content_type
    if decode and kind == "application/json":
        try:
            return json.loads(bytes(param.value))
        except (ValueError, RecursionError):
            log.warning("Input %r is not JSON although its type says so: kept as bytes", param.name)
    elif decode and kind.startswith("text"):
        try:
            return str(param.value, "utf-8")
        except UnicodeDecodeError:
            log.warning("Input %r is not UTF-8 although it is text: kept as bytes", param.name)
    value = param.value
    return value if isinstance(value, bytearray) else bytearray(value)
