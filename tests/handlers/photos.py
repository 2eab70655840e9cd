"""Made pictures that make a difference to each step of a transform."""

from __future__ import annotations

import io

import torch
from PIL import Image


def photo(width: int, height: int, mode: str = "RGB", kind: str = "JPEG") -> bytes:
    """Smooth and coarse at once: no two pixels of a neighbourhood are equal."""
    count = width * height * 3
    coarse = torch.arange(count).mul(7).remainder(61)
    smooth = torch.linspace(0, 190, count)
    pixels = bytes((coarse + smooth).to(torch.uint8).tolist())
    stream = io.BytesIO()
    Image.frombytes("RGB", (width, height), pixels).convert(mode).save(stream, kind)
    return stream.getvalue()
