"""The models of the start that are not there, and why.

`startup` writes them down; `readiness` and describe show them, until somebody registers or deletes
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from ts_frontend.core.history import History, tail
from ts_frontend.model_snapshot import SavedVersion


@dataclass(frozen=True, slots=True)
class FailedModel:
    """A model of the start that is not registered, and why.

    Args:
        name: the snapshot's or the manifest's; while there is no manifest, that of the file.
        version: None while it is not known which one failed.
        saved: as the snapshot has it that it comes from.
        entry: of ``load_models``, as `urls.shown`, where it comes from there.
    """

    name: str
    url: str
    error: str = ""
    traceback: str = ""
    version: str | None = None
    history: History = field(default_factory=History)
    saved: SavedVersion | None = None
    entry: str | None = None

    @property
    def reason(self) -> str:
        """That it is not there, for everybody: the cause may hold what only operators may see."""
        version = "" if self.version is None else f" version {self.version}"
        return f"Model {self.name}{version} could not be registered{see(self.name, self.version)}"

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


def see(model: str, version: str | None) -> str:
    """The end of a line that tells everybody of a failure: where operators find its cause."""
    path = "/".join(quote(part, safe="") for part in (model, version) if part is not None)
    return f"; the cause is in the log and in GET /models/{path} on the management port."


class Failures:
    """What failed and is not there yet."""

    def __init__(self) -> None:
        self._failed: dict[tuple[str, str, str | None], FailedModel] = {}

    def __iter__(self) -> Iterator[FailedModel]:
        return iter(list(self._failed.values()))

    def add(self, failed: FailedModel) -> None:
        """Keep one, in place of an earlier failure of the same."""
        self._failed[_key(failed)] = failed

    def of(self, name: str, version: str | None = None, *, guess: bool = True) -> list[FailedModel]:
        """Those of a name and, where one is given, of a version.

        Args:
            guess: count what failed before its version was known, too.
        """
        matching = (version, None) if guess else (version,)
        return [
            one for one in self if one.name == name and (not version or one.version in matching)
        ]

    def forget(self, failed: Iterable[FailedModel]) -> None:
        """Drop some."""
        for one in failed:
            self._failed.pop(_key(one), None)

    def mended(self, name: str, version: str, url: str) -> bool:
        """Drop what has been registered after all. Of ``load_models`` that is whatever failed under
        the name or came from the same place; a snapshot wants its very version back.

        Returns:
            Whether there was something.
        """

        def mends(one: FailedModel) -> bool:
            if one.saved is not None:
                return (one.name, one.version) == (name, version)
            return one.name == name or one.url == url

        found = list(filter(mends, self))
        self.forget(found)
        return bool(found)


def _key(failed: FailedModel) -> tuple[str, str, str | None]:
    return failed.name, failed.url, failed.version
