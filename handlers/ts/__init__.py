"""Everything a model's handler may import, under the names TorchServe gave it.

Nothing is imported here: a worker pays only for what its handler uses.
"""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # `ts.__version__` is looked up when asked for, because the metadata's import is not free.
    if name == "__version__":
        from ts.version import __version__

        return __version__
    raise AttributeError(f"module 'ts' has no attribute {name!r}")
