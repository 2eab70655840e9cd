"""Loads a version anew from its files, beside itself, and lets the new workers take over.

`management` owns it; `watch` asks for it. No request is lost: the old workers answer until the new
ones have loaded, then what waits moves over and what has begun is answered where it is.
"""

from __future__ import annotations

import logging

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.inference import no_worker
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.registrar import Registrar
from ts_frontend.core.supervisor import Supervisor
from ts_frontend.errors import InvalidModel, RequestTimeout, ServeError, ServiceUnavailable

logger = logging.getLogger(__name__)


class Reloader:
    """Replaces registered versions by what their files are now."""

    def __init__(self, catalog: Catalog, supervisor: Supervisor, registrar: Registrar) -> None:
        self._catalog = catalog
        self._supervisor = supervisor
        self._registrar = registrar

    async def reload(self, old: ModelVersion) -> ModelVersion:
        """Bring up the version anew; returns the one that has taken the place of ``old``, which
        is the caller's to `retire`.

        Raises:
            ServeError: it could not be made or loaded, or was unregistered meanwhile. Nothing has
                changed then.
        """
        assert old.asked is not None
        new = await self._registrar.make(old.asked)
        try:
            _check_same(old, new)
            await self._load(old, new)
            async with self._registrar.lock(old.name):
                self._take_over(old, new)
        except BaseException:
            await self.retire(new)
            raise
        return new

    async def retire(self, model: ModelVersion) -> None:
        """End a version that is not registered, or no more: its workers answer what they are at."""
        try:
            await self._supervisor.stop(model, lambda: _nobody(model))
        except RequestTimeout:
            pass  # said so, and they go on being ended
        finally:
            await self._registrar.discard(model.archive)

    async def _load(self, old: ModelVersion, new: ModelVersion) -> None:
        low, high = old.min_workers, old.max_workers
        if new.yaml_workers != old.yaml_workers and new.yaml_workers is not None:
            low, high = new.yaml_workers
        change = self._supervisor.scale(new, low, high)
        await self._supervisor.settle(change, new.version)

    def _take_over(self, old: ModelVersion, new: ModelVersion) -> None:
        if not self._catalog.holds(old):
            raise self._catalog.missing(old.name, old.version)
        if new.yaml_workers == old.yaml_workers:
            # Somebody may have scaled the old one meanwhile.
            self._supervisor.scale(new, old.min_workers, old.max_workers)
        self._catalog.replace(old, new)
        old.queue.bequeath(new.queue)
        self._registrar.changed()


def _check_same(old: ModelVersion, new: ModelVersion) -> None:
    if (old.name, old.version) != (new.name, new.version):
        raise InvalidModel(
            f"{new.url} now has version {new.version} of model {new.name}; it was registered as "
            f"version {old.version} of model {old.name}. Register the other one."
        )


def _nobody(model: ModelVersion) -> ServeError:
    return ServiceUnavailable(no_worker(model.name, model.version))
