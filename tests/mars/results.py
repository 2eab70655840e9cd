"""Returns or sets what the body names: one word for each row of the table of handler results."""

import json

import torch


def handle(data, context):
    if data is None:
        return None
    return [_result(bytes(row.get("body", b"")).decode(), context, i) for i, row in enumerate(data)]


def _result(command, context, idx):
    if command.startswith("{"):  # {"status": ..., "phrase": ..., "type": ..., "headers": {...}}
        wish = json.loads(command)
        if "status" in wish:
            context.set_response_status(wish["status"], wish.get("phrase", ""), idx)
        if "type" in wish:
            context.set_response_content_type(idx, wish["type"])
        for name, value in wish.get("headers", {}).items():
            context.set_response_header(idx, name, value)
        return wish.get("body", "")
    return {
        "bytes": b"\x00\xff",
        "bytearray": bytearray(b"\x01"),
        "str": "gr\u00fc\u00df",
        "tensor": torch.arange(3),
        "dict": {"a": [1, 2.5, None, True], "\u00fc": float("nan")},
        "number": 1e-05,
        "none": None,
        "empty": [],
    }[command]
