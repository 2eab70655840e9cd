"""Imports of what an archive brings: its own file wins over a module of the same name.

Used for handlers by `ts.model_loader` and for model classes by `ts.torch_handler.model_formats`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import types
from typing import Optional


def import_own(name: str, model_dir: Optional[str]) -> types.ModuleType:
    """Import ``name``; from ``model_dir`` even where another module has taken the name.

    A handler called ``signal.py`` must not turn out to be Python's.

    Raises:
        ModuleNotFoundError: no module of that name anywhere.
        Exception: what the module itself raises, unchanged.
    """
    importlib.invalidate_caches()
    path = os.path.join(model_dir or "", *name.split(".")) + ".py"
    if model_dir is None or not os.path.isfile(path):
        return importlib.import_module(name)
    taken = sys.modules.get(name)
    module = importlib.import_module(name) if taken is None else taken
    loaded = getattr(module, "__file__", None)
    if loaded is not None and os.path.realpath(loaded) == os.path.realpath(path):
        return module
    return _load(path, "model_dir_" + name.replace(".", "_"))


def _load(path: str, alias: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(alias, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be loaded as a Python module")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickles look their module up by its name while it runs.
    sys.modules[alias] = module
    spec.loader.exec_module(module)
    return module
