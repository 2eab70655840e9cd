"""Writes down which models are registered, at the start, at each change and at the end.

`management` says when something has changed and what there is; `server` begins and closes. The
text is TorchServe's (reference §8.10): it is a config.properties, from which a server starts again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ts_frontend import properties
from ts_frontend.core.archive import Archive
from ts_frontend.core.catalog import Catalog
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.own_thread import in_own_thread
from ts_frontend.model_snapshot import ModelSnapshot, SavedVersion, as_json
from ts_frontend.snapshot_store import MARK, SnapshotStore
from ts_frontend.version import __version__

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

Kind = Literal["startup", "snapshot", "shutdown"]

CLOSE_SECONDS = 10.0  # for the last snapshot; who stops the server waits for it
_TRIES = 100
_STEP = timedelta(milliseconds=1)


class Snapshots:
    """Writes one snapshot at a time; what changes meanwhile makes one more, not many.

    Nothing that goes wrong here is more than a line in the log.

    Args:
        config: what its author wrote down goes into each snapshot.
        store: its `save` and `last` are called in threads.
        registered: what there is now.
        failed: entries of ``load_models`` that the next start shall try again.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        config: Config,
        store: SnapshotStore,
        registered: Callable[[], Iterable[SavedVersion]],
        *,
        failed: Callable[[], Iterable[str]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._writer = _Writer(config, store, clock)
        self._registered = registered
        self._failed = failed
        self._begun = False
        self._due: list[Kind] = []
        self._writing: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """All models of the start are registered. Before that a snapshot would know only some of
        them, and a server that is stopped early would have lost the others."""
        self._begun = True
        self._ask("startup")

    def changed(self) -> None:
        """Something was registered, scaled, unregistered or made the default."""
        if self._begun:
            self._ask("snapshot")

    async def close(self) -> None:
        """Write the last one; gives up on a store that takes too long."""
        if not self._begun:
            return
        self._ask("shutdown")
        self._begun = False
        if self._writing is not None:
            _, late = await asyncio.wait([self._writing], timeout=CLOSE_SECONDS)
            if late:
                logger.error("The last snapshot took more than %g s: given up", CLOSE_SECONDS)
                self._writing.cancel()

    def _ask(self, kind: Kind) -> None:
        if kind not in self._due:
            self._due.append(kind)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        while self._due:
            kind = self._due.pop(0)
            models = ModelSnapshot("", tuple(self._registered()), tuple(self._failed()))
            # A store that hangs, on a network for instance, must keep no server from ending.
            await in_own_thread(partial(self._writer.write, kind, models), "snapshot")


class _Writer:
    """Names and writes snapshots; called by one thread at a time."""

    def __init__(self, config: Config, store: SnapshotStore, clock: Callable[[], float]) -> None:
        self._config = config
        self._store = store
        self._clock = clock
        self._last: datetime | None = None

    def write(self, kind: Kind, models: ModelSnapshot) -> None:
        """Save a snapshot, or log why that failed."""
        try:
            self._save(kind, models)
        except (Exception, SystemExit) as error:  # of a full disk, or of a store by others
            logger.error("Snapshot not written: %s: %s", type(error).__name__, error)

    def _save(self, kind: Kind, models: ModelSnapshot) -> None:
        if self._last is None:
            self._last = self._latest()
        elif kind == "shutdown" and self._latest() > self._last:
            # The next start is to come up as the server did that has taken over meanwhile.
            logger.info("Another server has written a snapshot since: none of this one's end")
            return
        for _ in range(_TRIES):
            now = self._clock()
            # The greatest name is restored: no clock that is set back, as each autumn, may make a
            # new snapshot older than one that is there.
            self._last = max(_local(now), self._last + _STEP)
            name = f"{_stamp(self._last)}-{kind}.cfg"
            try:
                self._store.save(name, self._text(name, now, models))
            except FileExistsError:
                continue
            return
        raise FileExistsError(f"{name} and {_TRIES - 1} names before it are taken")

    def _latest(self) -> datetime:
        try:
            last = self._store.last()
            return _time(last[0]) if last else datetime.min
        except Exception:  # what can't be read need not keep us from writing
            logger.warning("The last snapshot can't be read", exc_info=True)
            return datetime.min

    def _text(self, name: str, now: float, models: ModelSnapshot) -> str:
        comments = (
            "Saving snapshot",
            time.strftime("%a %b %d %H:%M:%S %Z %Y", time.localtime(now)),
            f"{MARK} {__version__}",
        )
        entries = [entry for entry in self._config.written if entry[0] != "model_snapshot"]
        entries.append(("version", __version__))
        if self._config.source is not None:
            entries.append(("tsConfigFile", str(self._config.source)))
        text = as_json(name, int(now * 1000), models.versions, models.failed)
        entries.append(("model_snapshot", text))
        return properties.dump(comments, entries)


def registered(
    config: Config, catalog: Catalog, unrestored: list[SavedVersion]
) -> list[SavedVersion]:
    """What a snapshot keeps: every version of the catalog, and those of the snapshot that the
    server started from and that failed then. A start with a broken archive must not lose it.

    A default version that failed stays the default in the snapshot, until another one is chosen.
    """
    there = [_saved(config, one, catalog.is_default(one)) for one in catalog]
    known = {(one.model, one.version) for one in there}
    lost = [one for one in unrestored if (one.model, one.version) not in known]
    return there + [
        replace(one, default=catalog.reserved(one.model) == one.version) for one in lost
    ]


def _saved(config: Config, model: ModelVersion, default: bool) -> SavedVersion:
    settings, archive = model.settings, model.archive
    own = archive.manifest.get("model", {}).get("handler") or config.default_service_handler
    handler = model.launch.handler
    return SavedVersion(
        model=model.name,
        version=model.version,
        default=default,
        mar_name=_mar_name(archive, config.model_store),
        min_workers=model.min_workers,
        max_workers=model.max_workers,
        batch_size=settings.batch_size,
        max_batch_delay=settings.max_batch_delay,
        response_timeout=settings.response_timeout,
        startup_timeout=settings.startup_timeout,
        runtime=model.runtime,
        handler=None if handler == own else handler,
        weights_only=settings.weights.asked,
        parallel_level=None if settings.parallel is None else settings.parallel.level,
        max_latency=None if model.asked is None else model.asked.max_latency,
    )


def _mar_name(archive: Archive, store: Path | None) -> str:
    """The name in the model store. A folder elsewhere has its whole path: TorchServe kept the
    last part only, and did not start from that again."""
    source = archive.source or Path(archive.url)
    inside = store is None or source.parent.absolute() == store.absolute()
    return source.name if inside else str(source.absolute())


def _local(seconds: float) -> datetime:
    """Local time as a wall clock shows it, to the millisecond."""
    exact = datetime.fromtimestamp(seconds)
    return exact.replace(microsecond=exact.microsecond // 1000 * 1000)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y%m%d%H%M%S}{moment.microsecond // 1000:03}"


def _time(name: str) -> datetime:
    digits = name.partition("-")[0]
    return datetime.strptime(digits + "000", "%Y%m%d%H%M%S%f")
