"""The models of the start: registers what ``load_models`` lists and remembers what failed.

`management` owns it; `describe` and `readiness` show what it remembers.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from ts_frontend.core.history import History, tail
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.settings import Registration
from ts_frontend.core.store import Store, default_name
from ts_frontend.errors import Conflict, ServeError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FailedModel:
    """A model of the start that is not registered, and why."""

    name: str
    url: str
    error: str
    traceback: str = ""
    history: History = field(default_factory=History)

    @property
    def reason(self) -> str:
        """What it lacks, on one line."""
        return f"Model {self.name} ({self.url}) failed to load: {' '.join(self.error.split())}"

    def body(self) -> dict[str, Any]:
        """An element of the describe array; the first keys are those of a registered version."""
        return {
            "modelName": self.name,
            "modelUrl": self.url,
            "loadedAtStartup": True,
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
        self._failed: dict[tuple[str, str], FailedModel] = {}  # by name and url

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

    def forget(self, name: str) -> bool:
        """Drop what failed under a name; says whether there was something."""
        found = self.failed(name)
        for one in found:
            del self._failed[one.name, one.url]
        return bool(found)

    def _fail(
        self, asked: Registration, error: str, trace: str = "", history: History | None = None
    ) -> None:
        history = history or History()
        history.add("FAILED", " ".join(error.split()))
        name = asked.model_name or default_name(asked.url)
        self._failed[name, asked.url] = FailedModel(name, asked.url, error, trace, history)
        logger.error("Failed to load model: %s, %s%s", asked.url, error, trace and f"\n{trace}")


def _split_entry(entry: str) -> tuple[str | None, str]:
    name, equals, url = entry.partition("=")
    # A URL may hold a "=" in its query.
    if not equals or "/" in name:
        return None, entry
    return name.strip() or None, url.strip()
