"""Turns an archive and a register call into a `ModelVersion`: manifest, settings, packages.

`management` calls it; it changes nothing outside the archive's own folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ts_frontend.core.archive import Archive
from ts_frontend.core.compile_cache import compile_environment
from ts_frontend.core.devices import Devices, GpuSet
from ts_frontend.core.env_cache import EnvCache
from ts_frontend.core.environment import worker_environment
from ts_frontend.core.model import Launch, ModelVersion
from ts_frontend.core.model_yaml import ModelYaml, read_model_yaml
from ts_frontend.core.python_env import PythonNeeds, PythonSetup, prepare
from ts_frontend.core.settings import (
    Registration,
    Settings,
    configured_runtime,
    resolve,
)
from ts_frontend.core.store import default_name
from ts_frontend.core.weights import weights_environment
from ts_frontend.errors import BadRequest, InvalidModel, WorkerInitialization

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

RUNTIMES = ("python", "python3", "LSP")
DEFAULT_VERSION = "1.0"
MAX_WORKERS = 1000
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


def check_runtime(runtime: str | None) -> None:
    """Raise `BadRequest` for a ``runtime`` parameter that TorchServe does not know."""
    if runtime is not None and runtime not in RUNTIMES:
        raise BadRequest(f"Invalid RuntimeType value: {runtime}")


def check_numbers(asked: Registration) -> Registration:
    """Refuse what no model can run with; take what TorchServe could run with as it ran with it.

    There a batch size below 1 batched like 1 and a negative delay waited like 0, so such calls
    have always succeeded. A timeout below 1 failed at the first load, or each prediction.

    Raises:
        BadRequest: a timeout below 1 second, or too many workers.
    """
    for name in ("response_timeout", "startup_timeout"):
        seconds = getattr(asked, name)
        if seconds is not None and seconds < 1:
            raise BadRequest(
                f"Parameter {name} must be 1 second or more, not {seconds}; "
                f"leave it out, or send -1, for default_{name}."
            )
    size = _at_least(1, "batch_size", asked.batch_size)
    delay = _at_least(0, "max_batch_delay", asked.max_batch_delay)
    check_workers(asked.initial_workers or 0)
    return replace(asked, batch_size=size, max_batch_delay=delay)


def check_workers(count: int) -> None:
    """Refuse more workers than machines can run: the loop would do nothing but make them.

    Raises:
        BadRequest: more than 1000.
    """
    if count > MAX_WORKERS:
        raise BadRequest(
            f"{count} workers are too many: a version of a model may have {MAX_WORKERS} at once. "
            "Ask for fewer, or share the load with more servers."
        )


def _at_least(least: int, name: str, value: int | None) -> int | None:
    if value is None or value >= least:
        return value
    logger.warning("Parameter %s=%s is taken as %s.", name, value, least)
    return least


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


async def build(
    config: Config,
    devices: Devices,
    blueprint: Blueprint,
    archive: Archive,
    environ: Mapping[str, str],
    environments: EnvCache,
) -> ModelVersion:
    """Install the model's own packages and make the version.

    What it takes from ``environments`` is held for ``archive.root``.

    Raises:
        ModelSetupFailed: venv or pip failed.
        WorkerInitialization: there are GPUs, but fewer than one worker needs.
    """
    settings = blueprint.settings
    env = worker_environment(config, environ)
    python = _interpreter(blueprint.runtime, env)
    install = config.install_py_dep_per_model
    needs = PythonNeeds(
        blueprint.name,
        use_venv=settings.use_venv and blueprint.runtime == "python",
        requirements=blueprint.requirements if install else None,
        python=python or sys.executable,
        executable=blueprint.file.python_executable,
        builder=config.py_env_builder,
    )
    setup = await prepare(needs, archive, env, environments) or PythonSetup(None)
    env = weights_environment(env, settings.weights, blueprint.name, blueprint.version)
    if blueprint.file.compiles:
        env |= await asyncio.to_thread(compile_environment, config, environ, archive, env)
    # The driver's answer may take a while, the first time.
    await asyncio.to_thread(lambda: devices.count)
    ids = devices.valid_ids(settings.device_ids, blueprint.name)
    kind = devices.kind(settings.device_type)
    if settings.device_type == "mps" and kind != "mps":
        logger.warning(
            "model %s: deviceType mps needs a Mac with Apple silicon: it runs on the CPU",
            blueprint.name,
        )
    gpu_sets = _gpu_sets(devices, blueprint, ids) if kind == "gpu" else ()
    if settings.parallel is not None:
        env = settings.parallel.environment(env)
    return ModelVersion(
        blueprint.name,
        blueprint.version,
        blueprint.runtime,
        archive,
        settings,
        Launch(
            model_dir=str(archive.model_dir),
            handler=blueprint.handler,
            python=setup.python or python,
            import_paths=(*_import_paths(blueprint.handler, archive), *setup.import_paths),
            env=env,
        ),
        next_device=devices.assigner(settings.device_type, ids),
        device_type=kind,
        device_ids=ids,
        gpu_sets=gpu_sets,
    )


def _gpu_sets(
    devices: Devices, blueprint: Blueprint, ids: tuple[int, ...] | None
) -> tuple[GpuSet, ...]:
    parallel = blueprint.settings.parallel
    if parallel is None:
        return ()
    sets = devices.sets(ids, parallel.level)
    if not sets:
        raise WorkerInitialization(
            f"No enough gpu devices for model:{blueprint.name} parallelLevel:{parallel.level}"
        )
    return sets


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


def _interpreter(runtime: str, env: Mapping[str, str]) -> str | None:
    """The interpreter of ``python3``: whatever has that name on PATH. None means our own."""
    if runtime != "python3":
        return None
    found = shutil.which("python3", path=env.get("PATH"))
    if found is None or os.path.dirname(found) == os.path.dirname(sys.executable):
        return None
    return found


def _import_paths(handler: str, archive: Archive) -> tuple[str, ...]:
    paths = [str(archive.model_dir.resolve()), str(archive.root)]
    module = handler.partition(":")[0] if ":" in handler else ""
    if "/" in module:  # a function in a file elsewhere: TorchServe looks beside that file first
        paths.insert(0, module.rpartition("/")[0] or "/")
    return tuple(dict.fromkeys(paths))
