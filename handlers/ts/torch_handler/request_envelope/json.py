"""The envelope `json`: ``{"instances": [...]}`` in, ``{"predictions": [...]}`` out."""

from __future__ import annotations

import base64
import json
from typing import Any, List

from ts.blame import each
from ts.torch_handler.request_envelope.base import BaseEnvelope, cut


class JSONEnvelope(BaseEnvelope):
    """Several instances a request, all requests' instances in one batch for the handler."""

    def parse_input(self, data: List[Any]) -> List[Any]:
        """The instances of all rows; ``{"b64": text}`` becomes bytes."""
        groups = each(_instances, data)
        self._lengths = [len(group) for group in groups]
        return [instance for group in groups for instance in group]

    def format_output(self, data: List[Any]) -> List[Any]:
        """Per request the text of ``{"predictions": its results}``."""
        return [json.dumps({"predictions": group}) for group in cut(data, self._lengths)]


def _instances(row: Any) -> List[Any]:
    body = row.get("data") or row.get("body") or row
    if isinstance(body, (bytes, bytearray, str)):
        body = json.loads(body)
    return [_decoded(instance) for instance in body["instances"]]


def _decoded(instance: Any) -> Any:
    if _is_b64(instance):
        return base64.b64decode(instance["b64"])
    if isinstance(instance, dict):
        return {
            name: base64.b64decode(value["b64"]) if _is_b64(value) else value
            for name, value in instance.items()
        }
    return instance


def _is_b64(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"]
