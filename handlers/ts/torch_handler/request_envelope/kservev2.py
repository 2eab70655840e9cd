"""The envelope `kservev2`: KServe's V2 protocol (Open Inference), tensors in and out."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import numpy as np

from ts.blame import each
from ts.torch_handler.request_envelope.base import BaseEnvelope, regroup

_SIZES = ("8", "16", "32", "64")
_FROM_NUMPY: Dict[str, str] = {
    "bool": "BOOL",
    **{f"uint{size}": f"UINT{size}" for size in _SIZES},
    **{f"int{size}": f"INT{size}" for size in _SIZES},
    **{f"float{size}": f"FP{size}" for size in _SIZES[1:]},
    "object": "BYTES",
}


class KServev2Envelope(BaseEnvelope):
    """The handler gets the list of input tensors and returns one result per input.

    Answers every request of a batch; TorchServe's envelope sees only the first one.
    """

    def __init__(self, handle_fn: Any) -> None:
        super().__init__(handle_fn)
        self._requests: List[Dict[str, Any]] = []

    def parse_input(self, data: List[Any]) -> List[Any]:
        """All rows' inputs as dicts with ``name``, ``shape``, ``datatype`` and ``data``.

        ``data`` is nested by ``shape``; of BYTES it is the first element.
        """
        read = each(self._read, data)
        self._requests = [request for request, _ in read]
        self._lengths = [len(tensors) for _, tensors in read]
        inputs = [item for _, tensors in read for item in tensors]
        self.context.input_names = [item["name"] for item in inputs]
        if str(self._requests[0].get("id") or "").strip():
            self.context.input_request_id = self._requests[0]["id"]
        return inputs

    def format_output(self, data: List[Any]) -> List[Any]:
        """One inference response per request, its outputs named after its inputs."""
        for name in ("input_names", "input_request_id"):
            self.context.__dict__.pop(name, None)
        groups = [list(data)] if len(self._requests) == 1 else regroup(data, self._lengths)
        return [self._response(idx, group) for idx, group in enumerate(groups)]

    def _response(self, idx: int, results: List[Any]) -> Dict[str, Any]:
        request = self._requests[idx]
        model = (self.context.manifest or {}).get("model", {})
        names = [item["name"] for item in request["inputs"]]
        given = str(request.get("id") or "").strip()
        return {
            "id": request["id"] if given else self.context.get_request_id(idx),
            "model_name": model.get("modelName"),
            "model_version": model.get("modelVersion"),
            "outputs": [_output(name, result) for name, result in zip(names, results)],
        }

    def _read(self, row: Any) -> Tuple[Dict[str, Any], List[Dict[str, Any]]]:
        request = self._from_json(row)
        return request, [_nested(item) for item in request["inputs"]]

    @staticmethod
    def _from_json(row: Any) -> Any:
        body = row.get("data") or row.get("body")
        return json.loads(body) if isinstance(body, (bytes, bytearray, str)) else body


def _nested(item: Dict[str, Any]) -> Dict[str, Any]:
    if item["datatype"] == "BYTES":
        data = item["data"][0]
    else:
        # Without the datatype: it would round or wrap the numbers, and only their shape is asked
        # for.
        data = np.array(item["data"]).reshape(item["shape"]).tolist()
    return {**item, "name": item["name"], "data": data}  # its output will want the name


def _output(name: str, result: Any) -> Dict[str, Any]:
    values = np.asarray(result)
    datatype = "BYTES" if values.dtype.kind == "U" else _FROM_NUMPY[values.dtype.name]
    flat = values.flatten().tolist()
    return {"name": name, "datatype": datatype, "data": flat, "shape": [len(flat)]}
