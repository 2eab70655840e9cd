"""Requests to language models, as `vllm_handler` and `trt_llm_handler` take them."""

from __future__ import annotations

import json
import os
from typing import Any, List

from ts.utils.util import PredictionException


def single_body(data: List[Any]) -> Any:
    """What the JSON body of the batch's only request holds; None where it has no body.

    Raises:
        PredictionException: 400 where it is no JSON, 500 for more than one request.
    """
    if len(data) != 1:
        raise PredictionException(
            f"This handler takes one request at a time, found {len(data)}: set batchSize: 1 and "
            "asyncCommunication: true in the model's yaml",
            500,
        )
    body = data[0].get("data") or data[0].get("body")
    if isinstance(body, (bytes, bytearray, str)):
        try:
            return json.loads(body)
        except ValueError as error:
            raise PredictionException(f"The body is no JSON: {error}", 400) from error
    return body


def inside(model_dir: str, path: str) -> str:
    """``path`` in the archive where it is there, else as it stands: an id or another folder."""
    own = os.path.join(model_dir, path)
    return own if os.path.exists(own) else path
