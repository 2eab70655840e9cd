"""Brings versions into the catalog and takes them out again, with their files and packages.

`management` decides when; `reload` makes versions here that take the place of others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from ts_frontend.core.archive import Archive
from ts_frontend.core.blueprint import Blueprint, draw, identify
from ts_frontend.core.catalog import Catalog
from ts_frontend.core.devices import Devices
from ts_frontend.core.env_cache import open_env_cache
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.registration import build, check_numbers, check_runtime, check_workers
from ts_frontend.core.settings import Registration, startup_workers, wanted_workers
from ts_frontend.core.store import Store
from ts_frontend.core.supervisor import Change, Supervisor
from ts_frontend.errors import InvalidVersion
from ts_frontend.urls import shown

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)


class Registrar:
    """Keeps the catalog, and what belongs to its versions.

    Args:
        cores: workers of a model loaded at startup where nothing says how many and there is no
            GPU.
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
        environ: Mapping[str, str],
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._store = store
        self._supervisor = supervisor
        self._devices = devices
        self._cores = cores
        self._environ = environ
        self._environments = open_env_cache(config, environ)
        self._changed: Callable[[], None] = lambda: None
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have this called by `changed`."""
        self._changed = changed

    def changed(self) -> None:
        """A version has been registered, scaled, removed or made the default."""
        self._changed()

    async def enter(
        self,
        asked: Registration,
        *,
        at_startup: bool,
        identified: Callable[[str, str], None] = lambda name, version: None,
        turn: Callable[[], Awaitable[object]] | None = None,
    ) -> tuple[ModelVersion, Change]:
        """Register a version and begin to start its workers.

        Args:
            at_startup: it comes from ``load_models``, by whose rules it gets its workers.
            identified: told name and version once they are known.
            turn: waits, with the archive unpacked, until the version may be registered.

        Raises:
            ServeError: it can't be registered; nothing of it is left.
        """
        check_runtime(asked.runtime)
        asked = check_numbers(asked)
        async with self._fetched(asked) as archive:
            identified(*identify(asked, archive))
            blueprint = await asyncio.to_thread(draw, self._config, asked, archive)
            if turn is not None:
                await turn()
            async with self.lock(blueprint.name):
                return await self._add(asked, blueprint, archive, at_startup)

    async def _add(
        self, asked: Registration, blueprint: Blueprint, archive: Archive, at_startup: bool
    ) -> tuple[ModelVersion, Change]:
        name, version = blueprint.name, blueprint.version
        self._catalog.check_free(name, version)
        model = await self._build(asked, blueprint, archive)
        if at_startup:
            parallel = model.settings.parallel
            default = self._devices.count or self._cores
            default = max(1, default // (1 if parallel is None else parallel.level))
            wanted = startup_workers(self._config, name, version, blueprint.file, default)
        else:
            wanted = wanted_workers(self._config, asked, blueprint.file)
        check_workers(wanted[0])
        # One that a start from a snapshot tries again does not count, as the others there.
        self._catalog.add(
            model,
            at_startup=at_startup and self._config.model_snapshot is None,
            starting=at_startup or asked.restored is not None,
        )
        logger.info("Model %s version %s registered from %s", name, version, shown(asked.url))
        change = self._supervisor.scale(model, *wanted)
        self.changed()
        return model, change

    async def make(self, asked: Registration) -> ModelVersion:
        """Make a version that is not registered; raises as `enter`."""
        async with self._fetched(asked) as archive:
            blueprint = await asyncio.to_thread(draw, self._config, asked, archive)
            return await self._build(asked, blueprint, archive)

    @asynccontextmanager
    async def _fetched(self, asked: Registration) -> AsyncIterator[Archive]:
        """The archive, which goes again if the block fails."""
        archive = await self._store.fetch(asked.url, s3_sse_kms=asked.s3_sse_kms)
        try:
            yield archive
        except BaseException:
            await self.discard(archive)
            raise

    async def _build(
        self, asked: Registration, blueprint: Blueprint, archive: Archive
    ) -> ModelVersion:
        model = await build(
            self._config, self._devices, blueprint, archive, self._environ, self._environments
        )
        model.asked, model.yaml_workers = asked, blueprint.file.workers
        return model

    async def withdraw(self, model: ModelVersion) -> None:
        """Unregister a version whose workers failed, unless somebody else has done it."""
        async with self.lock(model.name):
            if not self._catalog.holds(model):
                return
            # Other versions came meanwhile: a default stays, and its workers keep retrying.
            with contextlib.suppress(InvalidVersion):
                await self.remove(model)

    async def remove(self, model: ModelVersion) -> None:
        """Take a version out of the catalog and end its workers, once these have answered their
        current batch. For who holds the lock of its name.

        Raises:
            InvalidVersion: it is the default and others exist.
            RequestTimeout: its workers did not end in time.
        """
        self._catalog.remove(model)
        self.changed()
        try:
            # Those who wait in its queue hear what those who come now hear.
            gone = partial(self._catalog.missing, model.name, model.version)
            await self._supervisor.stop(model, gone)
        finally:
            await self.discard(model.archive)
        logger.info("Model %s version %s unregistered", model.name, model.version)

    async def close(self) -> None:
        """Delete the unpacked files of all models, once the supervisor is closed."""
        for model in list(self._catalog):
            await self._store.release(model.archive)
            self._environments.release(model.archive.root)

    async def discard(self, archive: Archive) -> None:
        """Delete what was made for an archive."""
        try:
            await self._store.discard(archive)
        finally:
            if self._environments.release(archive.root):
                await asyncio.to_thread(self._environments.prune)

    def lock(self, model: str) -> asyncio.Lock:
        """That of a model's name, for whoever changes it."""
        lock = self._locks.get(model)
        if lock is None:
            lock = self._locks[model] = asyncio.Lock()
        return lock
