"""How many threads a worker computes with. Called by `loop` before loading and on a resize."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from typing import Any, Optional

_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class ThreadCount:
    """Keeps torch's (and, with threadpoolctl, BLAS's) thread count at what the server asks for.

    A handler that chose a number itself keeps it.
    """

    def __init__(self) -> None:
        self._applied: Optional[int] = None

    def apply(self, count: int) -> None:
        """Compute with ``count`` threads from now on; 0 changes nothing."""
        if count < 1:
            return
        torch = sys.modules.get("torch")
        if torch is None:
            for name in _VARIABLES:  # read when torch and BLAS are imported
                os.environ.setdefault(name, str(count))
            self._applied = count
            return
        if self._applied is not None and torch.get_num_threads() != self._applied:
            return
        torch.set_num_threads(count)
        first, self._applied = self._applied is None, count
        if "numpy" in sys.modules:
            libraries = known_libraries() if first else _libraries()
            if libraries is not None:
                libraries.limit(limits=count)


@functools.lru_cache(maxsize=1)
def known_libraries() -> Any:
    """What `_libraries` found when it was asked first. The zygote asks for its workers: before a
    model is loaded they have the same, and to look takes longer than many a model."""
    return _libraries()


def _libraries() -> Any:
    """Those that threadpoolctl knows, of all that this process has loaded; None without it."""
    try:
        threadpoolctl = importlib.import_module("threadpoolctl")
    except ImportError:
        return None  # numpy keeps what OPENBLAS_NUM_THREADS said at import
    return threadpoolctl.ThreadpoolController()
