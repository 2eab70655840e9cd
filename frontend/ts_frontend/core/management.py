"""Upper seam for operators: all that the management edges may use.

Calls that change one model wait for each other; models do not wait for other models.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.changes import Changes
from ts_frontend.core.describe import ask_handler, describe_versions, list_page
from ts_frontend.core.devices import Devices
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.registrar import Registrar
from ts_frontend.core.registration import check_workers
from ts_frontend.core.reload import Reloader
from ts_frontend.core.settings import Registration
from ts_frontend.core.startup import Identified, Startup, Turn
from ts_frontend.core.store import Store
from ts_frontend.core.supervisor import Change, Supervisor
from ts_frontend.errors import (
    BadRequest,
    ModelNotFound,
    ServeError,
    VersionNotFound,
)

if TYPE_CHECKING:
    from ts_frontend.config import Config

__all__ = ["Management", "Outcome", "Registration"]

_PROCESSING = "Processing worker updates..."
_IN_PROGRESS = "Workers scaling in progress..."


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a management call came to; an edge answers ``{"status": message}``."""

    status: int
    message: str


class Management:
    """Registers, scales, describes and removes models; its ``startup`` has those of the start.

    Args:
        cores: workers of a model loaded at startup where nothing says how many and there is no
            GPU.

    Attributes:
        reloader: loads versions anew, for `watch`.
        changes: runs what changes models for clients, who may go away.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        store: Store,
        supervisor: Supervisor,
        devices: Devices,
        *,
        cores: int,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.changes = Changes()
        self._catalog = catalog
        self._supervisor = supervisor
        self._devices = devices
        self._registrar = Registrar(
            config, catalog, store, supervisor, devices, cores=cores, environ=environ
        )
        self.startup = Startup(config, catalog, store, self._enter_at_startup)
        self.reloader = Reloader(catalog, supervisor, self._registrar)

    async def register(self, asked: Registration) -> Outcome:
        """Make a model version available and start the workers it should have.

        Raises:
            ServeError: see the table in §5.2 of TorchServe's management API; the version is then
                not registered. `Internal` from a worker carries its cause and traceback.
        """
        model, change = await self._registrar.enter(asked, at_startup=False)
        outcome = await self._registered(asked, model, change)
        self._catalog.confirm_default(model)
        if self.startup.failures.mended(model.name, model.version, asked.url):
            self._registrar.changed()
        return outcome

    async def _registered(
        self, asked: Registration, model: ModelVersion, change: Change
    ) -> Outcome:
        registered = f'Model "{model.name}" Version: {model.version} registered with '
        if model.min_workers == 0:
            return Outcome(
                200,
                f"{registered}0 initial workers. "
                "Use scale workers API to add workers for the model.",
            )
        if not asked.synchronous:
            return Outcome(202, _PROCESSING)
        try:
            complete = await self._settle(change, model.version)
        except (ServeError, asyncio.CancelledError):  # the server stops: a snapshot has it not
            await self._registrar.withdraw(model)
            raise
        if not complete:
            return Outcome(206, _IN_PROGRESS)
        return Outcome(200, f"{registered}{change.wanted} initial workers")

    async def unregister(self, model: str, version: str | None) -> Outcome:
        """Remove a version (None: the default) once its workers answered their current batch.

        A model of the start that failed and is nowhere registered is forgotten.

        Raises:
            ModelNotFound, VersionNotFound, InvalidVersion (a default that is not alone),
            RequestTimeout (its workers did not end in time).
        """
        async with self._registrar.lock(model):
            try:
                found = self._catalog.find(model, version)
            except (ModelNotFound, VersionNotFound):
                failed = self.startup.failed(model, version)
                if not failed:
                    raise
                self._catalog.give_up_default(model, version)
                self.startup.failures.forget(failed)
                self._registrar.changed()
            else:
                await self._registrar.remove(found)
        return Outcome(200, f'Model "{model}" unregistered')

    async def scale(
        self, model: str, version: str | None, min_worker: int, max_worker: int, synchronous: bool
    ) -> Outcome:
        """Bring the number of workers of a version (None: the default) into a range.

        Raises:
            BadRequest: the range is none, or asks for too many workers.
            Internal: a new worker failed to load; the workers keep retrying.
        """
        if max_worker < min_worker:
            raise BadRequest("max_worker cannot be less than min_worker.")
        if min_worker < 0:
            raise BadRequest("min_worker cannot be negative.")
        check_workers(min_worker)
        async with self._registrar.lock(model):
            found = self._catalog.find(model, version)
            change = self._supervisor.scale(found, min_worker, max_worker)
            self._registrar.changed()
        if not synchronous:
            return Outcome(202, _PROCESSING)
        if not await self._settle(change, version):
            return Outcome(206, _IN_PROGRESS)
        suffix = "" if version is None else f", version: {version}"
        return Outcome(200, f"Workers scaled to {change.wanted} for model: {model}{suffix}")

    def set_default(self, model: str, version: str) -> Outcome:
        """Make a version the one that requests without a version get."""
        self._catalog.set_default(model, version)
        self._registrar.changed()
        return Outcome(
            200, f'Default version successfully updated for model "{model}" to "{version}"'
        )

    def list_models(self, limit: int, next_page_token: int) -> dict[str, Any]:
        """A page of the models by name; a limit outside 0 to 100 means 100."""
        return list_page(self._catalog.listed(), limit, next_page_token)

    async def describe(
        self, model: str, version: str | None, customized: bool = False
    ) -> list[dict[str, Any]]:
        """Describe a version, the default one for None, or every version for "all".

        What failed at the start is described as well, and says why.

        Args:
            customized: also ask the handler, whose JSON object comes as ``customizedMetadata``.
        """
        try:
            if version == "all":
                found = self._catalog.versions(model)
            else:
                found = [self._catalog.find(model, version)]
        except (ModelNotFound, VersionNotFound):
            failed = self.startup.failed(model, None if version == "all" else version)
            if not failed:
                raise
            return [one.body() for one in failed]
        startup = self._catalog.loaded_at_startup(model)
        failed = self.startup.failures.of(model) if version == "all" else []
        bodies = await describe_versions(found, self._devices, loaded_at_startup=startup)
        bodies += [one.body() for one in failed]
        if customized and version != "all":
            metadata = await ask_handler(found[0])
            if metadata is not None:
                bodies[0]["customizedMetadata"] = metadata
        return bodies

    def ready(self, model: str) -> bool:
        """KServe's readiness: the default version has a worker, whatever its state."""
        return bool(self._catalog.find(model).slots)

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have this called once a version is registered, scaled, removed or made the default."""
        self._registrar.on_change(changed)

    async def close(self) -> None:
        """Delete the unpacked files of all models, once the supervisor is closed."""
        await self._registrar.close()

    async def _enter_at_startup(
        self, asked: Registration, identified: Identified, turn: Turn
    ) -> ModelVersion:
        model, _ = await self._registrar.enter(
            asked, at_startup=asked.restored is None, identified=identified, turn=turn
        )
        return model

    async def _settle(self, change: Change, version: str | None) -> bool:
        """As `Supervisor.settle`; raises what `find` does if the version went meanwhile."""
        complete = await self._supervisor.settle(change, version)
        self._catalog.find(change.model.name, change.model.version)
        return complete
