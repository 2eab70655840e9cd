"""The envelope `body`: the handler gets each request's data itself instead of a dict."""

from __future__ import annotations

from typing import Any, List

from ts.torch_handler.request_envelope.base import BaseEnvelope


class BodyEnvelope(BaseEnvelope):
    """Takes ``data`` or ``body`` out of each row; results stay as they are."""

    def parse_input(self, data: List[Any]) -> List[Any]:
        return [row.get("data") or row.get("body") for row in data]

    def format_output(self, data: List[Any]) -> List[Any]:
        return data
