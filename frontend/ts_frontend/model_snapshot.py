"""The `model_snapshot` key: which versions a server had, and with which numbers.

`keys` reads it, `core.snapshot` writes it. The JSON is TorchServe's (reference §8.10), so that
each server restores what the other one left; KServe writes it into config.properties by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ts_frontend.lenient_json import gson_int
from ts_frontend.values import BadValue, FallBack, json_object, lenient_json

_TIMEOUT = 120
_BATCH_DELAY = 100
_FAILED = "failedModels"


@dataclass(frozen=True, slots=True)
class SavedVersion:
    """One version as a snapshot has it.

    Args:
        mar_name: its archive or folder in the model store, or the absolute path of a folder.
        batch_size, max_batch_delay, ...: as in `core.settings.Settings`.
        handler: the register call's, where it differs from the archive's. Not in TorchServe, which
            loses it.
        weights_only, max_latency: the register call's; not in TorchServe.
        parallel_level: kept for who follows it; the model's yaml says the same.
    """

    model: str
    version: str
    default: bool
    mar_name: str
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay: int
    response_timeout: int = _TIMEOUT
    startup_timeout: int = _TIMEOUT
    runtime: str = "python"
    handler: str | None = None
    weights_only: bool | None = None
    max_latency: int | None = None
    parallel_level: int | None = None

    def __str__(self) -> str:
        return f"{self.model} {self.version}"

    def body(self) -> dict[str, Any]:
        """The JSON object, in TorchServe's order."""
        body: dict[str, Any] = {
            "defaultVersion": self.default,
            "marName": self.mar_name,
            "minWorkers": self.min_workers,
            "maxWorkers": self.max_workers,
            "batchSize": self.batch_size,
            "maxBatchDelay": self.max_batch_delay,
            "responseTimeout": self.response_timeout,
            "startupTimeout": self.startup_timeout,
            "runtimeType": self.runtime,
        }
        if self.parallel_level is not None:
            body["parallelLevel"] = self.parallel_level
        if self.handler is not None:
            body["handler"] = self.handler
        if self.weights_only is not None:
            body["weightsOnly"] = self.weights_only
        if self.max_latency is not None:
            body["maxLatencyMs"] = self.max_latency
        return body


@dataclass(frozen=True, slots=True)
class ModelSnapshot:
    """The models of a snapshot; those of one with a ``modelCount`` below 1 are not there.

    Args:
        failed: entries of ``load_models``, as `urls.shown`, that failed in the run that wrote it.
            Not in TorchServe, which does not look at them.
    """

    name: str
    versions: tuple[SavedVersion, ...]
    failed: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As JSON has it, for ``config --show``."""
        return {"name": self.name, **_body(self.versions, self.failed)}

    def absent(self, store: Path, cwd: Path) -> list[SavedVersion]:
        """Versions whose files are neither in the model store nor a folder elsewhere.

        Looks where `core.store.Store.fetch` will look.
        """
        return [
            one
            for one in self.versions
            if not (store / Path(one.mar_name).name).exists() and not (cwd / one.mar_name).is_dir()
        ]


def as_json(
    name: str, created: int, versions: Iterable[SavedVersion], failed: Iterable[str] = ()
) -> str:
    """The value of `model_snapshot`.

    Args:
        name: of the snapshot's file.
        created: milliseconds since 1970.
    """
    body = _body(versions, failed)
    count = sum(map(len, body["models"].values()))
    return json.dumps({"name": name, "modelCount": count, "created": created, **body}, indent=2)


def _body(versions: Iterable[SavedVersion], failed: Iterable[str]) -> dict[str, Any]:
    models: dict[str, dict[str, Any]] = {}
    for one in versions:
        models.setdefault(one.model, {})[one.version] = one.body()
    listed = list(failed)
    return {"models": models, **({_FAILED: listed} if listed else {})}


def model_snapshot(raw: str) -> ModelSnapshot | None:
    """Read the key; empty means unset. JSON as gson takes it: quotes single or missing.

    Raises:
        BadValue: no JSON, or a version lacks one of the values that TorchServe requires.
        FallBack: a number out of its range has been replaced by its default, or ``modelCount``
            says that there are no models.
    """
    if not raw.strip():
        return None
    whole = json_object(lenient_json(raw), "the snapshot")
    models = json_object(whole.get("models", {}), "models")
    problems: list[str] = []
    versions = tuple(
        _Reader(model, version, found, problems).read()
        for model, among in models.items()
        for version, found in json_object(among, f"the versions of {model}").items()
    )
    count = gson_int(whole.get("modelCount", str(len(versions))))
    if count is None:
        raise BadValue("expected a whole number for modelCount")
    failed = _texts(whole.get(_FAILED, []))
    if count <= 0:
        if not failed:
            problems.append("Model snapshot is empty. Starting without initial models")
        versions = ()
    snapshot = ModelSnapshot(str(whole.get("name", "")), versions, failed)
    if problems:
        raise FallBack(snapshot, "; ".join(problems))
    return snapshot


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise BadValue(f"expected a JSON array for {_FAILED}")
    return tuple(map(str, value))


class _Reader:
    """Typed look-ups in one version's object."""

    def __init__(self, model: str, version: str, found: object, problems: list[str]) -> None:
        self._model, self._version = model, version
        self._where = f"{model} {version}"
        self._values = json_object(found, f"version {version} of {model}")
        self._problems = problems

    def read(self) -> SavedVersion:
        least = self._whole("minWorkers", 0, 0)
        level = self._whole("parallelLevel", 0, 0, required=False)
        latency = self._whole("maxLatencyMs", 0, 0) if "maxLatencyMs" in self._values else None
        return SavedVersion(
            model=self._model,
            version=self._version,
            default=self._boolean("defaultVersion"),
            mar_name=self._text("marName"),
            min_workers=least,
            max_workers=self._whole("maxWorkers", least, least),
            batch_size=self._whole("batchSize", 1, 1),
            # TorchServe's own snapshots may have -10000: what a register call in JSON left unset.
            max_batch_delay=self._whole("maxBatchDelay", 0, _BATCH_DELAY),
            response_timeout=self._whole("responseTimeout", 1, _TIMEOUT, required=False),
            startup_timeout=self._whole("startupTimeout", 1, _TIMEOUT, required=False),
            runtime=self._text("runtimeType", "python"),
            handler=self._text("handler", "") or None,
            weights_only=self._boolean("weightsOnly") if "weightsOnly" in self._values else None,
            parallel_level=level or None,
            max_latency=latency,
        )

    def _whole(self, key: str, least: int, default: int, *, required: bool = True) -> int:
        if not required and self._values.get(key) is None:
            return default
        number = gson_int(self._values.get(key))
        if number is None:
            raise BadValue(f"{self._where}: expected a whole number for {key}")
        if number < least:
            self._problems.append(f"{self._where}: {key}={number} is below {least}: {default} used")
            return default
        return number

    def _text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise BadValue(f"{self._where}: expected a text for {key}")
        return str(value)

    def _boolean(self, key: str) -> bool:
        text = str(self._values.get(key)).lower()
        if text not in ("true", "false"):
            raise BadValue(f"{self._where}: expected true or false for {key}")
        return text == "true"
