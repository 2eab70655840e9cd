"""What the server, or a model, still waits for before it wants traffic: the rules of readiness.

`startup` owns it and tells it what is loaded at startup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.failures import FailedModel, see
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import State


class Readiness:
    """Ready once each startup model has had its minimum of loaded workers; then the rule of
    ``/ping``, so that a worker that restarts takes no server out of the traffic.

    Args:
        loading: what names the models that are going to be loaded at startup; empty for none.
    """

    def __init__(self, catalog: Catalog, *, loading: str) -> None:
        self._catalog = catalog
        self._loading = loading
        self._awaited: list[ModelVersion] = []

    def expect(self, model: ModelVersion) -> None:
        """Wait for the workers of a startup model."""
        self._awaited.append(model)

    def loaded(self) -> None:
        """Every startup model is registered, or failed."""
        self._loading = ""

    def missing(self, failed: Sequence[FailedModel] = ()) -> list[str]:
        """What is missing, one line each; empty when ready.

        Args:
            failed: models of the start that are not registered.
        """
        if self._loading:
            return [f"The models of {self._loading} are still being registered."]
        self._awaited = [one for one in self._awaited if self._lacks(one)]
        now = asyncio.get_running_loop().time()
        return [
            *(one.reason for one in failed),
            *map(_not_loaded, self._awaited),
            *(
                f"{_named(one)}: {one.healthy_workers(now)} of {one.min_workers} workers are "
                f"healthy{_trouble(one)}"
                for one in self._catalog.defaults()
                if one.healthy_workers(now) < one.min_workers and one not in self._awaited
            ),
        ]

    def model_missing(self, model: ModelVersion) -> list[str]:
        """What keeps one version from being ready, at most one line.

        Ready means: as many workers as its minimum have loaded, and one of them is there now. One
        of several that restarts changes nothing.
        """
        if not model.slots:
            return [f"{_named(model)} has no worker: scale it up."]
        if _ready(model) and sum(slot.has_loaded for slot in model.slots) >= model.min_workers:
            return []
        return [_not_loaded(model)]

    def _lacks(self, model: ModelVersion) -> bool:
        return self._catalog.holds(model) and _ready(model) < model.min_workers


def _ready(model: ModelVersion) -> int:
    return sum(slot.state is State.READY for slot in model.slots)


def _named(model: ModelVersion) -> str:
    return f"Model {model.name} version {model.version}"


def _not_loaded(model: ModelVersion) -> str:
    count = f"{_ready(model)} of {model.min_workers} workers have loaded"
    return f"{_named(model)}: {count}{_trouble(model)}"


def _trouble(model: ModelVersion) -> str:
    """What is wrong with workers that failed, if any did. What a handler raised may hold anything,
    and probes need no token: it is not told here."""
    failed = [slot for slot in model.slots if slot.failure is not None]
    if not failed:
        return "."
    what = "have ended" if any(slot.has_loaded for slot in failed) else "fail to load"
    return f" and {len(failed)} {what}{see(model.name, model.version)}"
