"""Decides how each file is stored: tensors as they are and on page borders, text deflated.

`writers` asks. Deflating float weights saves some 7 % and takes minutes for large models.
"""

from __future__ import annotations

import zlib
from enum import Enum
from pathlib import Path, PurePosixPath


class Storage(Enum):
    """How the bytes of a file lie in the archive."""

    TENSOR = "tensor"  # uncompressed, and starting on a page border so that it can be mapped
    STORED = "stored"  # uncompressed
    DEFLATED = "deflated"


# A file system maps whole pages; 4096 bytes is the page of x86-64 and most of arm64.
PAGE = 4096

# fmt: off
_TENSORS = (
    ".pt", ".pth", ".pt2", ".bin", ".safetensors", ".onnx", ".so", ".npy", ".npz", ".ckpt", ".gguf",
)
_COMPRESSED = (
    ".zip", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".whl", ".jar", ".mar", ".parquet",
    ".png", ".jpg", ".jpeg", ".gif", ".webp", ".mp3", ".mp4", ".ogg", ".flac", ".woff", ".woff2",
)
_TEXT = (
    ".py", ".pyi", ".txt", ".json", ".yaml", ".yml", ".md", ".rst", ".csv", ".tsv", ".xml",
    ".html", ".toml", ".ini", ".cfg", ".properties", ".vocab", ".jinja",
)
# fmt: on

_SAMPLE = 64 << 10
# Below this saving, inflating at every load costs more than the bytes are worth.
_WORTHWHILE = 0.9


def storage_of(name: str, path: Path) -> Storage:
    """How to store the file at ``path`` as ``name``: by its suffix, or by trying a sample."""
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in _TENSORS:
        return Storage.TENSOR
    if suffix in _COMPRESSED:
        return Storage.STORED
    if suffix in _TEXT or _compressible(path):
        return Storage.DEFLATED
    return Storage.STORED


def _compressible(path: Path) -> bool:
    """Whether the first and the middle 64 KiB shrink: headers are often text, data is not."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for start in {0, max(0, size // 2 - _SAMPLE // 2)}:
            file.seek(start)
            sample = file.read(_SAMPLE)
            if len(zlib.compress(sample, 1)) > _WORTHWHILE * len(sample):
                return False
    return True
