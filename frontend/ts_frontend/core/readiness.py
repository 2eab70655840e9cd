"""What the server still waits for before it wants traffic: the rule of /readyz.

`management` tells it what is loaded at startup.
"""

from __future__ import annotations

import asyncio

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import State


class Readiness:
    """Ready once each startup model has had its minimum of loaded workers; then the rule of
    ``/ping``, so that a worker that restarts takes no server out of the traffic.

    Args:
        loading: whether models are going to be loaded at startup.
    """

    def __init__(self, catalog: Catalog, *, loading: bool) -> None:
        self._catalog = catalog
        self._loading = loading
        self._awaited: list[ModelVersion] = []

    def expect(self, model: ModelVersion) -> None:
        """Wait for the workers of a startup model."""
        self._awaited.append(model)

    def loaded(self) -> None:
        """Every startup model is registered, or was refused and logged."""
        self._loading = False

    def missing(self) -> list[str]:
        """What is missing, one line each; empty when ready."""
        if self._loading:
            return ["The models of load_models are still being registered."]
        self._awaited = [one for one in self._awaited if self._lacks(one)]
        now = asyncio.get_running_loop().time()
        return [
            f"Model {one.name} version {one.version}: {_ready(one)} of {one.min_workers} workers "
            "have loaded."
            for one in self._awaited
        ] + [
            f"Model {one.name} version {one.version}: {one.healthy_workers(now)} of "
            f"{one.min_workers} workers are healthy."
            for one in self._catalog.defaults()
            if one.healthy_workers(now) < one.min_workers
        ]

    def _lacks(self, model: ModelVersion) -> bool:
        return self._catalog.holds(model) and _ready(model) < model.min_workers


def _ready(model: ModelVersion) -> int:
    return sum(slot.state is State.READY for slot in model.slots)
