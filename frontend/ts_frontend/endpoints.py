"""Finds the installed plugins that add endpoints, and shows them the server; see docs/plugins.md.

`server` calls `load_endpoints` once, before anything listens: a plugin that can't be used stops
the start, since a deployment that lacks a path it was made for is not up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from ts_frontend.config import Config, ConfigError
from ts_frontend.config_report import json_value
from ts_frontend.core.management import Management
from ts_frontend.errors import ModelNotFound
from ts_frontend.keys import key_table
from ts_frontend.plugins import GROUP, Endpoint, Server

log = logging.getLogger(__name__)

# The first segments of the server's own paths. /ping is missing: TorchServe's plugins replace it.
OWN_PATHS = (
    *("/livez", "/readyz", "/token", "/metrics", "/api-description"),
    *("/predictions", "/explanations", "/invocations", "/models", "/workflows", "/wfpredict"),
    *("/v1/models", "/v2/models", "/v2/health"),
)
_PAGE = 100


@dataclass(frozen=True, slots=True)
class Installed:
    """An endpoint and where it comes from: distribution with version, and entry point."""

    endpoint: Endpoint
    origin: str


class ServerView:
    """The server as plugins see it; a `ts_frontend.plugins.Server`."""

    def __init__(self, config: Config, management: Management) -> None:
        self._config = MappingProxyType(
            {
                name: json_value(getattr(config, name))
                for name, key in key_table().items()
                if not key.secret
            }
        )
        self._management = management

    @property
    def config(self) -> Mapping[str, Any]:
        """Every key but the secret ones, with its value as JSON has it."""
        return self._config

    async def models(self) -> list[dict[str, Any]]:
        """Describe each version of each model."""
        names: list[str] = []
        while len(names) % _PAGE == 0:
            page = self._management.list_models(_PAGE, len(names))["models"]
            if not page:
                break
            names += [entry["modelName"] for entry in page]
        found: list[dict[str, Any]] = []
        for name in names:
            try:
                found += await self._management.describe(name, "all")
            except ModelNotFound:  # unregistered meanwhile
                continue
        return found


def load_endpoints(
    server: Server, installed: Iterable[EntryPoint] | None = None
) -> tuple[Installed, ...]:
    """Load all plugins and return what they serve.

    Args:
        server: what they are called with.
        installed: entry points; those of the environment when left out.

    Raises:
        ConfigError: one can't be loaded, fails, or takes a path of the server's own; names
            distribution, entry point and cause.
    """
    if installed is None:
        installed = entry_points(group=GROUP)
    named = sorted((_origin(entry), entry.name, entry) for entry in installed)
    found: list[Installed] = []
    for origin, _, entry in named:
        for endpoint in _call(entry, origin, server):
            _check(endpoint, origin)
            found.append(Installed(endpoint, origin))
            methods = ", ".join(endpoint.methods)
            log.info("%s API: %s %s from %s", endpoint.listener, methods, endpoint.path, origin)
    return tuple(found)


def _origin(entry: EntryPoint) -> str:
    dist = entry.dist
    package = "an unknown distribution" if dist is None else f"{dist.name} {dist.version}"
    return f"{package}, entry point {entry.name} of {GROUP}"


def _call(entry: EntryPoint, origin: str, server: Server) -> list[Endpoint]:
    try:
        endpoints = list(entry.load()(server))
    except (Exception, SystemExit) as error:  # whatever another's code may raise
        log.exception("A plugin failed: %s", origin)
        cause = f"{type(error).__name__}: {error}"
        raise ConfigError(
            f"{origin}: {entry.value} failed: {cause}. Mend or uninstall it."
        ) from error
    for endpoint in endpoints:
        if not isinstance(endpoint, Endpoint):
            raise ConfigError(f"{origin}: {entry.value} gave {endpoint!r} in place of an Endpoint")
    return endpoints


def _check(endpoint: Endpoint, origin: str) -> None:
    path = endpoint.path
    own = [own for own in OWN_PATHS if _within(path, own) or _within(own, path)]
    if path == "/ping" and endpoint.listener != "inference":
        own = ["/ping"]
    if own:
        raise ConfigError(
            f"{origin}: {path} is or holds {own[0]}, a path of the server's own: "
            "the plugin must take another"
        )


def _within(path: str, whole: str) -> bool:
    return path == whole or path.startswith(f"{whole}/")
