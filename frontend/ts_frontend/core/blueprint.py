"""What an archive and a register call say together: name, version, runtime, handler, settings.

`registrar` and `run_handler` draw one before they `build` the model of `registration` from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_frontend.core.archive import Archive
from ts_frontend.core.model_yaml import ModelYaml, read_model_yaml
from ts_frontend.core.settings import Registration, Settings, configured_runtime, resolve
from ts_frontend.core.store import default_name
from ts_frontend.errors import InvalidModel

if TYPE_CHECKING:
    from ts_frontend.config import Config

RUNTIMES = ("python", "python3", "LSP")
DEFAULT_VERSION = "1.0"
# `/models/{m}/all` describes all versions, and `/models/{m}/ready` is a probe.
TAKEN_VERSIONS = ("all", "ready")


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What an archive and a register call say, checked but not yet acted upon."""

    name: str
    version: str
    runtime: str
    handler: str
    requirements: str | None
    file: ModelYaml
    settings: Settings


def draw(config: Config, asked: Registration, archive: Archive) -> Blueprint:
    """Read manifest and yaml and settle every value.

    Raises:
        InvalidModel: the manifest or the yaml can't be used; the text says why.
    """
    manifest = archive.manifest
    entry = _entry(manifest)
    name, version = identify(asked, archive)
    if asked.restored is not None and version != asked.restored.version:
        raise InvalidModel(
            f"{asked.url} has version {version} of model {name}, and the snapshot had version "
            f"{asked.restored.version} from it. Register the new version, or put the old file back."
        )
    runtime = asked.runtime or configured_runtime(config, name, version)
    runtime = runtime or _text(manifest, "runtime") or "python"
    _check_manifest_runtime(runtime, name)
    handler = asked.handler or _text(entry, "handler") or config.default_service_handler
    if not handler:
        raise InvalidModel(
            f"No handler is defined for model {name}: the manifest, the register call "
            "or default_service_handler must name one."
        )
    config_file = _text(entry, "configFile")
    file = ModelYaml()
    if config_file:
        file = read_model_yaml(_inside(archive.model_dir, config_file))
    return Blueprint(
        name,
        version,
        runtime,
        handler,
        _text(entry, "requirementsFile"),
        file,
        resolve(config, name, version, asked, file),
    )


def identify(asked: Registration, archive: Archive) -> tuple[str, str]:
    """The name and the version that a model is registered under.

    Raises:
        InvalidModel: the manifest can't be used, or the name or the version can't.
    """
    entry = _entry(archive.manifest)
    name = asked.model_name or _text(entry, "modelName") or default_name(asked.url)
    if not name:
        raise InvalidModel("Model name is not defined.")
    version = _text(entry, "modelVersion") or DEFAULT_VERSION
    _check_addressable("Model name", name)
    _check_addressable("Model version", version)
    if version in TAKEN_VERSIONS:
        raise InvalidModel(
            f"Model version {version} is a word of the management API: give it another one."
        )
    return name, version


def _entry(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = manifest.get("model", {})
    if not isinstance(entry, dict):
        raise InvalidModel("Missing Model entry in manifest file.")
    return entry


def _check_addressable(what: str, text: str) -> None:
    """Refuse what no URL can name; each is also a part of the lines in logs."""
    if "/" in text or not text.isprintable():
        raise InvalidModel(f"{what} {text!r} can't be part of a URL: no slash, no control code")
    if text in (".", ".."):
        raise InvalidModel(f"{what} {text!r} can't be part of a URL: clients leave it out")


def _check_manifest_runtime(runtime: str, name: str) -> None:
    if runtime not in RUNTIMES:
        raise InvalidModel("Runtime is not defined or invalid.")
    if runtime == "LSP":
        raise InvalidModel(
            f"Model {name} has runtime LSP, TorchServe's C++ workers, which are not supported: "
            "archive it with runtime python."
        )


def _text(mapping: Mapping[str, Any], key: str) -> str | None:
    value = mapping.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):  # gson takes the text of a number; one with a fraction is text here
        return str(value)
    if not isinstance(value, str):
        raise InvalidModel(f"Failed to parse signature.json. {key} must be a text, not {value!r}.")
    return value


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidModel(f"configFile {name} leads out of the archive.")
    return path
