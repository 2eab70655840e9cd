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
    default: ModelVersion
    versions: dict[str, ModelVersion] = field(default_factory=dict)


class Catalog:
    """Models by name, versions by their exact string. The first version of a model becomes its
    default; later ones change that only by `set_default`."""

    def __init__(self) -> None:
        self._models: dict[str, _Entry] = {}
        self._at_startup: set[str] = set()

    def find(self, name: str, version: str | None = None) -> ModelVersion:
        """The version, or the default one for None.

        Raises:
            ModelNotFound, VersionNotFound: with TorchServe's texts.
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
        return VersionNotFound(f"Model version: {version} does not exist for model: {name}")

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, in the order of their registration."""
        entry = self._models.get(name)
        if entry is None:
            raise self.missing(name, None)
        return list(entry.versions.values())

    def defaults(self) -> list[ModelVersion]:
        """The default version of every model, sorted by name."""
        return [self._models[name].default for name in sorted(self._models)]

    def __iter__(self) -> Iterator[ModelVersion]:
        for entry in list(self._models.values()):
            yield from list(entry.versions.values())

    def check_free(self, name: str, version: str) -> None:
        """Raise `Conflict` where this version is registered already."""
        entry = self._models.get(name)
        if entry is not None and version in entry.versions:
            raise Conflict(f"Model version {version} is already registered for model {name}")

    def add(self, model: ModelVersion, *, at_startup: bool = False) -> None:
        """Enter a version; raises `Conflict` if it is there."""
        self.check_free(model.name, model.version)
        entry = self._models.setdefault(model.name, _Entry(model))
        entry.versions[model.version] = model
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
            InvalidVersion: it is the default and others exist.
        """
        entry = self._models[model.name]
        if entry.default is model and len(entry.versions) > 1:
            raise InvalidVersion(f"Cannot remove default version for model {model.name}")
        del entry.versions[model.version]
        if not entry.versions:
            del self._models[model.name]
        self._at_startup.discard(model.name)

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

    def loaded_at_startup(self, name: str) -> bool:
        """True for a model of ``load_models`` until any version of it is unregistered."""
        return name in self._at_startup

    def startup_model(self) -> str | None:
        """The model that was loaded at startup, if it was exactly one."""
        return next(iter(self._at_startup)) if len(self._at_startup) == 1 else None
