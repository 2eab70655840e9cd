"""Puts the faces on the configured addresses (reference §4.1); `server` calls it once."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from ts_frontend.config import Address, Config
from ts_frontend.core.inference import Inference
from ts_frontend.core.management import Management
from ts_frontend.endpoints import Installed
from ts_frontend.http import openapi
from ts_frontend.http.body import BodyReader
from ts_frontend.http.exchange import RequestIds
from ts_frontend.http.health import HealthFace
from ts_frontend.http.inference import InferenceFace
from ts_frontend.http.management import ManagementFace, TokenFace
from ts_frontend.http.metrics import MetricsFace
from ts_frontend.http.plugins import PluginFace
from ts_frontend.http.respond import Responder
from ts_frontend.http.router import Face, Router
from ts_frontend.http.server import Listener
from ts_frontend.http.tls import server_context
from ts_frontend.http.tokens import Tokens
from ts_frontend.http.workflows import WorkflowPredictionFace, WorkflowsFace
from ts_frontend.metrics.recorder import Recorder


class AccessLog(Protocol):
    """The access log; `ts_frontend.logs.Logs` has this method."""

    def access(self, line: str, fields: Sequence[object], /) -> None: ...


@dataclass(frozen=True, slots=True)
class Rooms:
    """What the HTTP edge needs from the rest of the server. ``tokens`` is None when disabled."""

    inference: Inference
    management: Management
    recorder: Recorder
    logs: AccessLog
    tokens: Tokens | None
    endpoints: Sequence[Installed] = ()


def build_listeners(config: Config, rooms: Rooms) -> list[Listener]:
    """Return the REST listeners of a configuration, not started.

    Inference and management share one listener when their addresses are equal. Unlike in
    TorchServe all of management stays usable there, each API with its own token.

    Raises:
        ConfigError: an https address without a usable certificate and key, or two endpoints of
            plugins in one place.
    """
    respond = Responder(_cors(config))
    bodies = BodyReader(config.max_request_size)
    inference: list[Face] = [
        InferenceFace(rooms.inference, respond, bodies),
        WorkflowPredictionFace(),
    ]
    management = _management(config, rooms, respond, bodies)
    metrics = [MetricsFace(rooms.recorder, respond)] if config.enable_metrics_api else []

    def health(document: openapi.Document, ping: bool) -> HealthFace:
        models = rooms.management.startup
        return HealthFace(
            respond,
            rooms.inference.healthy,
            models.missing,
            models.model_missing,
            document,
            ping=ping,
        )

    def plugins(*listeners: str) -> list[Face]:
        found = [one for one in rooms.endpoints if one.endpoint.listener in listeners]
        return [PluginFace(found, respond, bodies, rooms.tokens)] if found else []

    plan: list[tuple[Address, list[Face]]] = []
    if config.inference_address == config.management_address and _same(config):
        first: list[Face] = [*plugins("inference", "management"), health(openapi.combined(), True)]
        plan.append((config.inference_address, [*first, *inference, *management, *metrics]))
    else:
        first = [*plugins("inference"), health(openapi.inference(), True)]
        plan.append((config.inference_address, [*first, *inference]))
        first = [*plugins("management"), health(openapi.management(), False)]
        plan.append((config.management_address, [*first, *management]))
    if metrics:
        plan.append((config.metrics_address, [health(openapi.metrics(), False), *metrics]))
    hosts = list(dict.fromkeys(address.host for address, _ in plan if address.scheme == "https"))
    make = _maker(rooms, respond, server_context(config, hosts) if hosts else None)
    return [make(address, faces) for address, faces in plan]


def _same(config: Config) -> bool:
    # Port 0 means any free port: two of them are two ports.
    address = config.inference_address
    return address.scheme == "unix" or address.port != 0


def _management(config: Config, rooms: Rooms, respond: Responder, bodies: BodyReader) -> list[Face]:
    face = ManagementFace(rooms.management, respond, bodies, model_api=config.enable_model_api)
    faces: list[Face] = [face, WorkflowsFace(respond)]
    # Without authorization there is no /token, as in TorchServe.
    return faces if rooms.tokens is None else [TokenFace(rooms.tokens, respond), *faces]


def _maker(
    rooms: Rooms, respond: Responder, tls: ssl.SSLContext | None
) -> Callable[[Address, list[Face]], Listener]:
    ids = RequestIds()

    def make(address: Address, faces: list[Face]) -> Listener:
        return Listener(
            address,
            Router(faces, rooms.tokens),
            respond,
            access=rooms.logs.access,
            count=rooms.recorder.http_status,
            ids=ids,
            tls=tls if address.scheme == "https" else None,
        )

    return make


def _cors(config: Config) -> list[tuple[str, str]]:
    chosen = (
        ("access-control-allow-origin", config.cors_allowed_origin),
        ("access-control-allow-methods", config.cors_allowed_methods),
        ("access-control-allow-headers", config.cors_allowed_headers),
    )
    return [(name, value) for name, value in chosen if value]
