"""Imports aiohttp's server without its client, of which nothing is used here. `cli` does so first.

`import aiohttp` loads both, and then every CA certificate of the system: a fifth of the time from
start to listening. A plugin that uses the client finds it: whatever is asked for of the two
packages beyond the names below has aiohttp load as usual, into the same modules.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

# The names that this package takes from aiohttp, and where they are defined.
_PACKAGE = {"StreamReader": "streams", "HttpVersion": "http", "HttpVersion11": "http"}
_WEB = {
    "BaseRequest": "web_request",
    "RequestHandler": "web_protocol",
    "RequestPayloadError": "web_protocol",
    "Server": "web_server",
    "StreamResponse": "web_response",
}


def import_server() -> None:
    """Make aiohttp's server known as if all of aiohttp had been imported."""
    if "aiohttp" in sys.modules:
        return
    package = _promise("aiohttp")
    if package is None:
        return
    # Its server names itself with it.
    source = Path(package.__file__ or "").read_text("utf-8")
    version = re.search(r'^__version__ = "(.*)"', source, re.MULTILINE)
    if version is not None:
        vars(package)["__version__"] = version[1]
    _provide(package, _PACKAGE)
    web = _promise("aiohttp.web")
    if web is not None:
        vars(package)["web"] = web
        _provide(web, _WEB)


def _promise(name: str) -> ModuleType | None:
    """A module whose code runs once a name is asked for that it has not."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def load(attribute: str) -> Any:
        # Not of the machinery of imports, which asks for what a module need not have.
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        part = f"{name}.{attribute}"
        if "__path__" in vars(module) and importlib.util.find_spec(part) is not None:
            return importlib.import_module(part)
        vars(module).pop("__getattr__", None)
        loader.exec_module(module)
        return getattr(module, attribute)

    vars(module)["__getattr__"] = load
    sys.modules[name] = module
    return module


def _provide(module: ModuleType, names: Mapping[str, str]) -> None:
    for name, home in names.items():
        vars(module)[name] = getattr(importlib.import_module(f"aiohttp.{home}"), name)
