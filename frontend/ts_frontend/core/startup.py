"""The models of the start: registers what ``load_models`` or a snapshot lists and remembers what
failed.

`management` owns it; `describe` and `readiness` show what it remembers.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from ts_frontend.core.history import History, tail
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.settings import Registration
from ts_frontend.core.store import Store, default_name
from ts_frontend.errors import Conflict, ServeError
from ts_frontend.model_snapshot import SavedVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedModel:
    """A model of the start that is not registered, and why."""

    name: str
    url: str
    error: str
    traceback: str = ""
    history: History = field(default_factory=History)
    saved: SavedVersion | None = None  # as the snapshot has it that it comes from

    @property
    def version(self) -> str | None:
        """The version, where it is known which one failed."""
        return None if self.saved is None else self.saved.version

    @property
    def reason(self) -> str:
        """What it lacks, on one line."""
        version = "" if self.version is None else f" version {self.version}"
        error = " ".join(self.error.split())
        return f"Model {self.name}{version} ({self.url}) failed to load: {error}"

    def body(self) -> dict[str, Any]:
        """An element of the describe array; the first keys are those of a registered version."""
        return {
            "modelName": self.name,
            **({} if self.version is None else {"modelVersion": self.version}),
            "modelUrl": self.url,
            "loadedAtStartup": self.saved is None,
            "workers": [],
            "status": "FAILED",
            "error": self.error,
            **({"traceback": tail(self.traceback)} if self.traceback else {}),
            "history": self.history.body(),
        }


class Startup:
    """Loads models one after another; one that fails is logged and kept, the others go on.

    Args:
        enter: registers a model and starts its workers, without waiting for these.
        expect: told each registered model, whose workers the server is not ready without.
    """

    def __init__(
        self,
        store: Store,
        enter: Callable[[Registration], Awaitable[ModelVersion]],
        expect: Callable[[ModelVersion], None],
    ) -> None:
        self._store = store
        self._enter = enter
        self._expect = expect
        # By name, url and version.
        self._failed: dict[tuple[str, str, str | None], FailedModel] = {}

    async def load(self, load_models: str) -> None:
        """Register what ``load_models`` lists: ``all``, or ``[name=]archive`` with commas between.

        Workers go on loading after the return. Names are trimmed, which TorchServe did not do.
        """
        listed = [entry.strip() for entry in load_models.split(",")]
        if load_models.strip().lower() == "all":
            try:
                listed = await asyncio.to_thread(self._store.entries)
            except OSError as error:
                self._fail(Registration("all"), f"The model store can't be read: {error}")
                listed = []
        for entry in filter(None, listed):
            name, url = _split_entry(entry)
            await self.register(Registration(url, model_name=name))

    async def restore(self, versions: Iterable[SavedVersion]) -> None:
        """Register what a snapshot has; those that fail stay part of the next one.

        Default versions come first: the first version of a model to be registered is its default.
        """
        for one in sorted(versions, key=lambda one: not one.default):
            await self.register(
                Registration(
                    one.mar_name,
                    model_name=one.model,
                    handler=one.handler,
                    runtime=one.runtime,
                    weights_only=one.weights_only,
                    restored=one,
                )
            )

    async def register(self, asked: Registration) -> None:
        """Register one model; the failure is kept."""
        begun = History()
        begun.add("REGISTERING")
        try:
            model = await self._enter(asked)
        except Conflict as error:  # listed twice: the version is there, by whichever came first
            logger.error("Failed to load model: %s, %s", asked.url, error.message)
        except ServeError as error:
            self._fail(asked, error.message, history=begun)
        except Exception as bug:  # a bug that one archive brings out: the others can still serve
            text = "".join(traceback.format_exception(bug))
            self._fail(asked, f"{type(bug).__name__}: {bug}", text, begun)
        else:
            self._expect(model)

    def failed(self, name: str | None = None) -> list[FailedModel]:
        """What failed and is not there yet, of this name or of any."""
        return [one for one in self._failed.values() if name is None or one.name == name]

    def unrestored(self) -> list[SavedVersion]:
        """What a snapshot has and could not be registered."""
        return [one.saved for one in self._failed.values() if one.saved is not None]

    def forget(self, name: str, version: str | None = None, *, guess: bool = True) -> bool:
        """Drop what failed under a name and, where one is given, may have been this version.

        Args:
            guess: drop what failed before its version was known, too.

        Returns:
            Whether there was something.
        """
        matching = (version, None) if guess else (version,)
        found = [
            key
            for key, one in self._failed.items()
            if one.name == name and (version is None or one.version in matching)
        ]
        for key in found:
            del self._failed[key]
        return bool(found)

    def default_chosen(self, name: str) -> None:
        """Somebody made another version the default: one that failed will not be it again."""
        for key, one in self._failed.items():
            if one.name == name and one.saved is not None:
                self._failed[key] = replace(one, saved=replace(one.saved, default=False))

    def _fail(
        self, asked: Registration, error: str, trace: str = "", history: History | None = None
    ) -> None:
        history = history or History()
        history.add("FAILED", " ".join(error.split()))
        name = asked.model_name or default_name(asked.url)
        failed = FailedModel(name, asked.url, error, trace, history, asked.restored)
        self._failed[name, asked.url, failed.version] = failed
        logger.error("Failed to load model: %s, %s%s", asked.url, error, trace and f"\n{trace}")


def _split_entry(entry: str) -> tuple[str | None, str]:
    name, equals, url = entry.partition("=")
    # A URL may hold a "=" in its query.
    if not equals or "/" in name:
        return None, entry
    return name.strip() or None, url.strip()
