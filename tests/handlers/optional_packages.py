"""Small stand-ins for packages that handlers import when they need them."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest


def pretend(monkeypatch: pytest.MonkeyPatch, name: str, **content: Any) -> ModuleType:
    """Put a module of this name, and the packages above it, into `sys.modules`."""
    parts = name.split(".")
    for depth in range(1, len(parts)):
        package = ".".join(parts[:depth])
        if package not in sys.modules:
            above = ModuleType(package)
            above.__path__ = []
            monkeypatch.setitem(sys.modules, package, above)
    module = sys.modules.get(name)
    if module is None:
        module = ModuleType(name)
        module.__path__ = []
        monkeypatch.setitem(sys.modules, name, module)
    for key, value in content.items():
        setattr(module, key, value)
    if len(parts) > 1:
        monkeypatch.setattr(sys.modules[name.rpartition(".")[0]], parts[-1], module, raising=False)
    return module
