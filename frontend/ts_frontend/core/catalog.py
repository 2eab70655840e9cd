"""Which models and versions exist and which version of each is the default.

`inference` looks up here for every request; only `management` changes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ts_frontend.core.model import ModelVersion
from ts_frontend.errors import Conflict, InvalidVersion, ModelNotFound, VersionNotFound


@dataclass(slots=True)
class _Entry:
    default: ModelVersion | None = None
    versions: dict[str, ModelVersion] = field(default_factory=dict)


class Catalog:
    """Models by name, versions by their exact string. The first version of a model becomes its
    default; later ones change that only by `set_default`, but for one that was reserved."""

    def __init__(self) -> None:
        self._models: dict[str, _Entry] = {}
        self._reserved: dict[str, str] = {}  # default versions that are not here
        self._at_startup: set[str] = set()

    def find(self, name: str, version: str | None = None) -> ModelVersion:
        """The version, or the default one for None.

        Raises:
            ModelNotFound, VersionNotFound: with TorchServe's texts; for None as for the default
                version where that is reserved.
        """
        entry = self._models.get(name)
        found = None
        if entry is not None:
            found = entry.default if version is None else entry.versions.get(version)
        if found is None:
            raise self.missing(name, version)
        return found

    def missing(self, name: str, version: str | None) -> ModelNotFound | VersionNotFound:
        """What `find` raises for something that is not here."""
        if name not in self._models:
            return ModelNotFound(f"Model not found: {name}")
        version = version or self._reserved.get(name)
        return VersionNotFound(f"Model version: {version} does not exist for model: {name}")

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, in the order of their registration."""
        entry = self._models.get(name)
        if entry is None:
            raise self.missing(name, None)
        return list(entry.versions.values())

    def defaults(self) -> list[ModelVersion]:
        """The default version of every model, sorted by name, without reserved ones."""
        entries = (self._models[name] for name in sorted(self._models))
        return [entry.default for entry in entries if entry.default is not None]

    def listed(self) -> list[ModelVersion]:
        """One version of every model, sorted by name: the default one unless that is reserved."""
        entries = (self._models[name] for name in sorted(self._models))
        return [entry.default or next(iter(entry.versions.values())) for entry in entries]

    def __iter__(self) -> Iterator[ModelVersion]:
        for entry in list(self._models.values()):
            yield from list(entry.versions.values())

    def check_free(self, name: str, version: str) -> None:
        """Raise `Conflict` where this version is registered already."""
        entry = self._models.get(name)
        if entry is not None and version in entry.versions:
            raise Conflict(f"Model version {version} is already registered for model {name}")

    def add(self, model: ModelVersion, *, at_startup: bool = False, starting: bool = False) -> None:
        """Enter a version; raises `Conflict` if it is there.

        Args:
            starting: a start brings it up, and no client: whose first version is the default,
                whatever is reserved.
        """
        self.check_free(model.name, model.version)
        if model.name not in self._models and not starting:
            self._reserved.pop(model.name, None)
        entry = self._models.setdefault(model.name, _Entry())
        entry.versions[model.version] = model
        if entry.default is None and self.reserved(model.name) in (None, model.version):
            entry.default = model
        if at_startup:
            self._at_startup.add(model.name)

    def replace(self, old: ModelVersion, new: ModelVersion) -> None:
        """Let another object be this version: requests that come from now on are its own."""
        entry = self._models[old.name]
        entry.versions[old.version] = new
        if entry.default is old:
            entry.default = new

    def remove(self, model: ModelVersion) -> None:
        """Take a version out; the model's name goes with its last version.

        Raises:
            InvalidVersion: it is the default and others exist, unless it is still reserved for it.
        """
        entry = self._models[model.name]
        if entry.default is model and len(entry.versions) > 1:
            if self.reserved(model.name) != model.version:
                raise _needed(model.name)
            entry.default = None
        del entry.versions[model.version]
        if not entry.versions:
            del self._models[model.name]
        self._at_startup.discard(model.name)

    def holds_any(self, name: str) -> bool:
        """True while a version of this model is registered."""
        return name in self._models

    def holds(self, model: ModelVersion) -> bool:
        """True while this very object is registered."""
        entry = self._models.get(model.name)
        return entry is not None and entry.versions.get(model.version) is model

    def set_default(self, name: str, version: str) -> None:
        """Make a version the default. The text for an unknown one differs from `find`'s."""
        entry = self._models.get(name)
        if entry is None:
            raise self.missing(name, version)
        if version not in entry.versions:
            raise VersionNotFound(f"Model version {version} does not exist for model {name}")
        entry.default = entry.versions[version]
        self._reserved.pop(name, None)

    def is_default(self, model: ModelVersion) -> bool:
        """Whether requests without a version get this one."""
        return self._models[model.name].default is model

    def reserve_default(self, name: str, version: str) -> None:
        """Keep the default of a model for a version that could not be registered: until it is, or
        another one is chosen, requests without a version get none."""
        if name not in self._models:
            self._reserved[name] = version

    def confirm_default(self, model: ModelVersion) -> None:
        """The version that the default was reserved for is here to stay."""
        if self.reserved(model.name) == model.version:
            del self._reserved[model.name]

    def reserved(self, name: str) -> str | None:
        """The default version of a model that is not here, if there is one."""
        return self._reserved.get(name)

    def give_up_default(self, name: str, version: str | None) -> None:
        """Nobody waits for this version (None: the default) any more.

        Raises:
            InvalidVersion: the default is reserved for it and others exist, as in `remove`.
        """
        if name not in self._reserved or version not in (None, self._reserved[name]):
            return
        if name in self._models:
            raise _needed(name)
        del self._reserved[name]

    def loaded_at_startup(self, name: str) -> bool:
        """True for a model of ``load_models`` until any version of it is unregistered."""
        return name in self._at_startup

    def startup_model(self) -> str | None:
        """The model that was loaded at startup, if it was exactly one."""
        return next(iter(self._at_startup)) if len(self._at_startup) == 1 else None


def _needed(name: str) -> InvalidVersion:
    return InvalidVersion(f"Cannot remove default version for model {name}")
