"""Reloads a model that is a folder when its files change, for ``watch_models=true``.

`server` runs it; `reload` does the work. It polls: what tells of changes at once
differs from system to system, and does not work on mounted folders of containers and virtual
machines.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.model import ModelVersion, ReloadFailure
from ts_frontend.core.own_thread import in_own_thread
from ts_frontend.core.reload import Reloader
from ts_frontend.errors import ServeError

logger = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds
# For one folder to be read; a hung network folder is left alone until it answers again.
READ_SECONDS = 5.0
# What editors, Python and handlers write beside a model's files.
_NOISE = ("~", ".swp", ".tmp", ".log", ".pyc")
_NAMED = 3  # changed files that the log names
# Reloads in a row that a file changed in before it is taken for the model's own. Whoever edits one
# file that often while it is loaded is told.
_OWN = 3

Files = Mapping[str, tuple[int, int]]  # name: time of change in ns, and size


@dataclass(slots=True)
class _Watched:
    """What is known of one version's folder.

    Args:
        loaded: the files that its workers were loaded from.
        last: at the last look.
        tried: that the last reload began with.
        unsettled: how many reloads in a row each file changed in.
        ignored: names that change with each reload: the model itself writes them.
    """

    folder: Path
    loaded: Files
    last: Files
    tried: Files = field(default_factory=dict)
    unsettled: Mapping[str, int] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()

    def due(self, now: Files) -> bool:
        """Whether to reload: something changed, nothing since the last look, and this was not
        tried before. A half-written file would only fail."""
        quiet, self.last = not self.changed(self.last, now), now
        return bool(quiet and self.changed(self.loaded, now) and self.changed(self.tried, now))

    def changed(self, before: Files, now: Files) -> frozenset[str]:
        """Names of what came, went or differs."""
        return frozenset(
            name
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name) and name not in self.ignored
        )

    def learn(self, before: Files, after: Files) -> frozenset[str]:
        """Find out what the model writes itself when it is loaded, or each reload would set off
        the next. Returns the names that are ignored from now on."""
        changed = self.changed(before, after)
        self.unsettled = {name: self.unsettled.get(name, 0) + 1 for name in changed}
        own = frozenset(name for name, times in self.unsettled.items() if times >= _OWN)
        self.ignored |= own
        return own


class Watcher:
    """Looks at the folders of all registered models again and again."""

    def __init__(self, catalog: Catalog, reloader: Reloader) -> None:
        self._catalog = catalog
        self._reloader = reloader
        self._watched: dict[ModelVersion, _Watched] = {}
        self._reloading: dict[ModelVersion, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._scans: dict[Path, asyncio.Future[Files]] = {}
        self._unread: set[Path] = set()

    async def run(self, interval: float = INTERVAL) -> None:
        """Watch until cancelled, which ends reloads as well."""
        try:
            while True:
                try:
                    await self.look()
                except Exception:
                    logger.exception("Looking for changed files of models broke, it goes on")
                await asyncio.sleep(interval)
        finally:
            tasks = [*self._reloading.values(), *self._retiring]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self) -> None:
        """Compare every folder with the last look and begin the reloads that are due."""
        folders = {
            model: model.archive.source
            for model in self._catalog
            if model.archive.source is not None and model not in self._reloading
        }
        for model in self._watched.keys() - set(self._catalog) - self._reloading.keys():
            del self._watched[model]
        for model, folder in folders.items():
            files = await self._read(folder)
            if files is not None and self._catalog.holds(model) and model not in self._reloading:
                self._compare(model, files)

    async def _read(self, folder: Path) -> Files | None:
        """What is in a folder; None where it can't be read now."""
        scan = self._scans.get(folder)
        if scan is not None and not scan.done():  # one thread for a hung folder, not one a second
            return None
        scan = self._scans[folder] = in_own_thread(partial(_scan, folder), "watch")
        await asyncio.wait([scan], timeout=READ_SECONDS)
        if not scan.done():
            scan.add_done_callback(asyncio.Future.exception)  # taken note of, or asyncio logs it
            self._skip(folder, f"no answer within {READ_SECONDS:g} s")
            return None
        del self._scans[folder]
        try:
            files = scan.result()
        except OSError as error:
            self._skip(folder, error.strerror or str(error))
            return None
        self._unread.discard(folder)
        return files

    def _skip(self, folder: Path, why: str) -> None:
        if folder not in self._unread:
            logger.warning("%s can't be watched until it can be read again: %s", folder, why)
            self._unread.add(folder)

    async def settled(self) -> None:
        """Wait for the reloads that have begun, and the ends of old workers."""
        while tasks := [*self._reloading.values(), *self._retiring]:
            await asyncio.wait(tasks)

    def _compare(self, model: ModelVersion, now: Files) -> None:
        watched = self._watched.get(model)
        if watched is None:
            assert model.archive.source is not None
            self._watched[model] = _Watched(model.archive.source, loaded=now, last=now)
            return
        if not watched.changed(watched.loaded, now):
            model.reload_failure = None  # what failed was taken back
            watched.tried = {}
        if watched.due(now):
            watched.tried = now
            work = self._bring_up(model, watched, now)
            self._reloading[model] = asyncio.create_task(work, name=f"reload-{model.name}")

    async def _bring_up(self, model: ModelVersion, watched: _Watched, files: Files) -> None:
        title = f"Model {model.name} version {model.version}"
        logger.info("%s is loaded anew: %s", title, _named(watched.changed(watched.loaded, files)))
        try:
            new = await self._reloader.reload(model)
            watched.loaded = files
            self._watched[new] = watched
        except ServeError as error:
            self._failed(model, title, error.message)
        except Exception as bug:
            logger.exception("%s: the reload broke", title)
            self._failed(model, title, f"{type(bug).__name__}: {bug}")
        else:
            logger.info("%s has been reloaded", title)
            self._retire(model)
            await self._learn(title, watched, files)
        finally:
            del self._reloading[model]

    async def _learn(self, title: str, watched: _Watched, files: Files) -> None:
        try:
            after = await in_own_thread(partial(_scan, watched.folder), "watch")
        except OSError:  # the next look tells
            return
        if own := watched.learn(files, after):
            logger.warning("%s writes into its folder: %s no longer count", title, _named(own))

    def _retire(self, model: ModelVersion) -> None:
        task = asyncio.create_task(self._reloader.retire(model), name=f"retire-{model.name}")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _failed(self, model: ModelVersion, title: str, text: str) -> None:
        model.reload_failure = ReloadFailure.now(text)
        logger.error("%s goes on as it was, the reload failed: %s", title, text)


def _scan(folder: Path) -> Files:
    """Raises OSError where the folder itself can't be read: it would look empty."""
    return dict(_walk(str(folder)))


def _walk(root: str) -> Iterator[tuple[str, tuple[int, int]]]:
    def failed(error: OSError) -> None:
        if error.filename == root:
            raise error

    for place, folders, names in os.walk(root, onerror=failed):
        folders[:] = [each for each in folders if not each.startswith((".", "__pycache__"))]
        for name in names:
            if name.startswith(".") or name.endswith(_NOISE):
                continue
            path = os.path.join(place, name)
            try:
                found = os.stat(path)
            except OSError:  # gone meanwhile, or a link to nowhere
                continue
            yield os.path.relpath(path, root), (found.st_mtime_ns, found.st_size)


def _named(names: frozenset[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(sorted(names)[:_NAMED]) + more
