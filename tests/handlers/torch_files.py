"""Tiny real model files of every kind, for the handler tests."""

from __future__ import annotations

import struct
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.fx.experimental.symbolic_shapes  # sympy adds a warning filter: before any test

MODEL_PY = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)

    def forward(self, x):
        return self.linear(x)
"""


class Tiny(torch.nn.Module):
    """y = (sum of x, 1): three numbers in, two out; answers that tests can foresee."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]))
            self.linear.bias.copy_(torch.tensor([0.0, 1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def save_script(model: torch.nn.Module, path: Path) -> None:
    """TorchScript, without its deprecation's noise."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit", FutureWarning)
        torch.jit.script(model.eval()).save(str(path))


def save_exported(model: torch.nn.Module, path: Path, *example: Any) -> None:
    """torch.export with a free batch size."""
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} for _ in example)
    program = torch.export.export(model.eval(), example, dynamic_shapes=shapes)
    torch.export.save(program, str(path))


def _field(number: int, value: int | bytes | str) -> bytes:
    """One protobuf field: a varint or length-prefixed bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 127:
        encoded += bytes([value & 127 | 128])
        value >>= 7
    return encoded + bytes([value])


def _onnx_value(name: str, columns: int) -> bytes:
    dims = _field(1, _field(2, "batch")) + _field(1, _field(1, columns))
    tensor_type = _field(1, 1) + _field(2, dims)
    return _field(1, name) + _field(2, _field(1, tensor_type))


def save_onnx(path: Path, outputs: int = 1) -> None:
    """ONNX by hand (its exporter needs packages of its own): y = x + bias, z = relu(x)."""
    bias = _field(1, 3) + _field(2, 1) + _field(8, "bias")
    bias += _field(9, struct.pack("<3f", 10.0, 20.0, 30.0))
    add = _field(1, "x") + _field(1, "bias") + _field(2, "y") + _field(4, "Add")
    relu = _field(1, "x") + _field(2, "z") + _field(4, "Relu")
    graph = _field(1, add) + (_field(1, relu) if outputs > 1 else b"") + _field(2, "g")
    graph += _field(5, bias) + _field(11, _onnx_value("x", 3)) + _field(12, _onnx_value("y", 3))
    graph += _field(12, _onnx_value("z", 3)) if outputs > 1 else b""
    path.write_bytes(_field(1, 8) + _field(7, graph) + _field(8, _field(1, "") + _field(2, 13)))
