"""Batches as TorchServe's wire has them; `ts.service.Service` has methods that take these."""

from __future__ import annotations

from typing import Any, Dict, List, Optional

from ts.context import Batch
from ts.isolation import joined
from ts.protocol.otf_message_handler import encode_predictions


def split(message: Optional[List[Dict[str, Any]]]) -> Batch:
    """Headers, rows and request ids of a decoded message.

    Raises:
        ValueError: it is None.
    """
    if message is None:
        raise ValueError("Received invalid inputs")
    headers, rows, request_ids = [], [], {}
    for idx, request in enumerate(message):
        request_ids[idx] = request["requestId"].decode("utf-8")
        row, header = {}, {}
        for parameter in request["parameters"]:
            row[parameter["name"]] = parameter["value"]
            header[parameter["name"]] = {"content-type": parameter["contentType"]}
        for pair in request.get("headers") or ():
            header[pair["name"].decode("utf-8")] = pair["value"].decode("utf-8")
        rows.append(row)
        headers.append(header)
    return headers, rows, request_ids


def answer(service: Any, message: List[Dict[str, Any]]) -> Optional[bytearray]:
    """The bytes of the reply to a decoded message."""
    headers, rows, request_ids = split(message)
    outcome = service.infer(headers, rows, request_ids)
    if outcome.code != 200:

        def pick(numbers: List[int]) -> Batch:
            return split([message[number] for number in numbers])

        outcome = joined(service.settle(outcome, request_ids, pick), len(request_ids))
    return encode_predictions(request_ids, outcome.predictions, outcome.message, outcome.code)
