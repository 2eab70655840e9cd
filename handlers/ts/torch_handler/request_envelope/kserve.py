"""The envelope `kserve`: KServe's V1 protocol, instances in and predictions out."""

from __future__ import annotations

import json
from typing import Any, List

from ts.blame import each
from ts.torch_handler.request_envelope.base import BaseEnvelope, regroup


class KServeEnvelope(BaseEnvelope):
    """Answers every request of a batch; TorchServe's envelope sees only the first one."""

    def parse_input(self, data: List[Any]) -> List[Any]:
        """The ``instances`` of all rows."""
        groups = each(lambda row: list(self._from_json(row)["instances"]), data)
        self._lengths = [len(group) for group in groups]
        return [instance for group in groups for instance in group]

    def format_output(self, data: List[Any]) -> List[Any]:
        """Per request ``{"predictions": ...}``, or ``{"explanations": ...}`` if it asked so."""
        # A single request gets whatever the handler returned, be it longer or shorter.
        groups = [data] if len(self._lengths) == 1 else regroup(data, self._lengths)
        return [{self._key(idx): group} for idx, group in enumerate(groups)]

    def _key(self, idx: int) -> str:
        explain = self.context.get_request_header(idx, "explain") == "True"
        return "explanations" if explain else "predictions"

    @staticmethod
    def _from_json(row: Any) -> Any:
        body = row.get("data") or row.get("body")
        return json.loads(body) if isinstance(body, (bytes, bytearray, str)) else body
