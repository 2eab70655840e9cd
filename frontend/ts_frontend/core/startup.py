"""The models of the start: registers what ``load_models`` or a snapshot lists, knows what failed
and whether the server is ready, and what the next start has to bring up again.

`management` owns it, the edges ask it for readiness, `snapshot` for what there is to keep.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.failures import FailedModel, Failures
from ts_frontend.core.history import History
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.readiness import Readiness
from ts_frontend.core.settings import Registration
from ts_frontend.core.snapshot import registered
from ts_frontend.core.store import Store, default_name
from ts_frontend.errors import Conflict, ModelNotFound, ServeError, VersionNotFound
from ts_frontend.model_snapshot import ModelSnapshot, SavedVersion
from ts_frontend.urls import shown, without_secrets

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

# Told the name and version of a model once its archive is unpacked.
Identified = Callable[[str, str], None]
# Waits until the models that are listed before have been registered.
Turn = Callable[[], Awaitable[object]]

# Archives that are fetched ahead of their turn: enough to keep cores and downloads busy.
_AHEAD = 8
_ALL = "all"  # the entry of a store that can't be read


class Startup:
    """Fetches models side by side and registers them in their order, since the first version of a
    model is its default; one that fails is logged and kept, the others go on.

    Args:
        enter: registers a model once it is its turn and starts its workers, without waiting for
            these.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        store: Store,
        enter: Callable[[Registration, Identified, Turn], Awaitable[ModelVersion]],
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._store = store
        self._enter = enter
        loading = "load_models" if config.load_models else ""
        loading = loading if config.model_snapshot is None else "the snapshot"
        self._readiness = Readiness(catalog, loading=loading)
        self.failures = Failures()

    async def run(self) -> None:
        """Register what the configuration lists: a snapshot goes before ``load_models``."""
        if self._config.model_snapshot is not None:
            await self.restore(self._config.model_snapshot)
        elif self._config.load_models:
            await self.load(self._config.load_models)

    async def load(self, load_models: str) -> None:
        """Register what ``load_models`` lists: ``all``, or ``[name=]archive`` with commas between.

        Workers go on loading after the return. Names are trimmed, which TorchServe did not do.
        """
        await self._register_all(map(_asked, await self._listed(load_models)))
        self._readiness.loaded()

    async def _listed(self, load_models: str) -> list[str]:
        if load_models.strip().lower() != "all":
            return list(filter(None, map(str.strip, load_models.split(","))))
        try:
            return await asyncio.to_thread(self._store.entries)
        except OSError as error:
            text = f"The model store can't be read: {error}"
            self._fail(FailedModel("all", "all", text, entry=_ALL), History())
            return []

    async def restore(self, snapshot: ModelSnapshot) -> None:
        """Register what a snapshot has; those that fail stay part of the next one.

        Default versions come first: the first version of a model to be registered is its default,
        and none while the one that somebody chose is not there.
        """
        listed = ", ".join(map(str, snapshot.versions)) or "no models"
        logger.info("Restoring %s from snapshot %s", listed, snapshot.name)
        saved = sorted(snapshot.versions, key=lambda one: not one.default)
        await self._register_all((_restored(one), None) for one in saved)
        if snapshot.failed:
            await self._load_again(snapshot.failed)
        self._readiness.loaded()

    async def _load_again(self, failed: Collection[str]) -> None:
        """Try what failed in the last run, unless ``load_models`` has been changed meanwhile: a
        server that starts twice in one way must not be ready the second time only."""
        listed = await self._listed(self._config.load_models or "")
        again = [entry for entry in listed if shown(entry) in failed or _ALL in failed]
        await self._register_all(map(_asked, again))
        for gone in set(failed) - {_ALL, *map(shown, listed)}:
            logger.info("%s failed in the last run and is no longer in load_models", gone)

    def missing(self) -> list[str]:
        """What keeps the server from being ready, one line each; see `Readiness`."""
        return self._readiness.missing(tuple(self.failures))

    def model_missing(self, model: str, version: str | None) -> list[str]:
        """What keeps a version (None: the default) from being ready, one line each.

        Raises:
            ModelNotFound, VersionNotFound: there is no such model, nor did it fail at the start.
        """
        try:
            found = self._catalog.find(model, version)
        except (ModelNotFound, VersionNotFound):
            failed = self.failed(model, version)
            if not failed:
                raise
            return [one.reason for one in failed]
        return self._readiness.model_missing(found)

    def failed(self, model: str, version: str | None) -> list[FailedModel]:
        """What would be this version (None: the default), which the catalog has not, had it not
        failed."""
        nowhere = not self._catalog.holds_any(model)
        if not nowhere:
            version = version or self._catalog.reserved(model)
        return self.failures.of(model, version, guess=nowhere)

    def saved(self) -> list[SavedVersion]:
        """What a snapshot of now has; see `snapshot.registered`."""
        unrestored = [one.saved for one in self.failures if one.saved is not None]
        return registered(self._config, self._catalog, unrestored)

    def failed_entries(self) -> list[str]:
        """What of ``load_models`` the next start has to try again."""
        return [one.entry for one in self.failures if one.entry is not None]

    async def _register_all(self, wanted: Iterable[tuple[Registration, str | None]]) -> None:
        """Register each, with what names it in ``load_models`` if it is from there."""
        window = asyncio.Semaphore(_AHEAD)
        before = asyncio.Event()
        before.set()
        met: set[str] = set()
        async with asyncio.TaskGroup() as group:
            for asked, entry in wanted:
                await window.acquire()
                done = asyncio.Event()
                if asked.url in met:  # a download of that name is there, or not: that depends
                    await before.wait()
                met.add(asked.url)
                group.create_task(self._in_turn(asked, entry, before, done, window))
                before = done

    async def _in_turn(
        self,
        asked: Registration,
        entry: str | None,
        before: asyncio.Event,
        done: asyncio.Event,
        window: asyncio.Semaphore,
    ) -> None:
        try:
            await self._register(asked, entry, before.wait)
        finally:
            window.release()
        done.set()

    async def _register(self, asked: Registration, entry: str | None, turn: Turn) -> None:
        begun = History()
        begun.add("REGISTERING")
        saved = asked.restored
        failed = FailedModel(
            asked.model_name or default_name(asked.url),
            asked.url,
            version=None if saved is None else saved.version,
            saved=saved,
            entry=entry,
        )

        def identified(name: str, version: str) -> None:
            nonlocal failed
            if saved is None:
                failed = replace(failed, name=name, version=version)

        try:
            model = await self._enter(asked, identified, turn)
        except Conflict as error:  # listed twice: the version is there, by whichever came first
            _log_failure(asked.url, error.message)
        except ServeError as error:
            await turn()
            self._fail(replace(failed, error=error.message), begun)
        except Exception as bug:  # a bug that one archive brings out: the others can still serve
            text = "".join(traceback.format_exception(bug))
            await turn()
            self._fail(replace(failed, error=f"{type(bug).__name__}: {bug}", traceback=text), begun)
        else:
            self._catalog.confirm_default(model)
            self._readiness.expect(model)

    def _fail(self, failed: FailedModel, history: History) -> None:
        history.add("FAILED", " ".join(failed.error.split()))
        self.failures.add(replace(failed, history=history))
        if failed.saved is not None and failed.saved.default:
            self._catalog.reserve_default(failed.saved.model, failed.saved.version)
        _log_failure(failed.url, failed.error, failed.traceback)


def _log_failure(url: str, error: str, trace: str = "") -> None:
    text = without_secrets(error + (trace and f"\n{trace}"), url)
    logger.error("Failed to load model: %s, %s", shown(url), text)


def _asked(entry: str) -> tuple[Registration, str]:
    name, url = _split_entry(entry)
    return Registration(url, model_name=name), shown(entry)


def _restored(one: SavedVersion) -> Registration:
    return Registration(
        one.mar_name,
        model_name=one.model,
        handler=one.handler,
        runtime=one.runtime,
        weights_only=one.weights_only,
        max_latency=one.max_latency,
        restored=one,
    )


def _split_entry(entry: str) -> tuple[str | None, str]:
    name, equals, url = entry.partition("=")
    # A URL may hold a "=" in its query.
    if not equals or "/" in name:
        return None, entry
    return name.strip() or None, url.strip()
