"""What a register call may ask for, and the `ModelVersion` that is built: packages, devices, paths.

`registrar` and `management` call it; it changes nothing outside the archive's own folder.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from ts_frontend.core.archive import Archive
from ts_frontend.core.blueprint import RUNTIMES, Blueprint
from ts_frontend.core.compile_cache import compile_environment
from ts_frontend.core.devices import Devices, GpuSet
from ts_frontend.core.env_cache import EnvCache
from ts_frontend.core.environment import worker_environment
from ts_frontend.core.model import Launch, ModelVersion
from ts_frontend.core.python_env import PythonNeeds, PythonSetup, prepare
from ts_frontend.core.settings import Registration
from ts_frontend.core.weights import weights_environment
from ts_frontend.errors import BadRequest, WorkerInitialization

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

MAX_WORKERS = 1000
INSTALL_SETTING = "install_py_dep_per_model=true"


def check_runtime(runtime: str | None) -> None:
    """Raise `BadRequest` for a ``runtime`` parameter that TorchServe does not know."""
    if runtime is not None and runtime not in RUNTIMES:
        raise BadRequest(f"Invalid RuntimeType value: {runtime}")


def check_numbers(asked: Registration) -> Registration:
    """Refuse what no model can run with; take what TorchServe could run with as it ran with it.

    There a batch size below 1 batched like 1 and a negative delay waited like 0, so such calls
    have always succeeded. A timeout below 1 failed at the first load, or each prediction.

    Raises:
        BadRequest: a timeout below 1 second, a latency target below 0, or too many workers.
    """
    for name in ("response_timeout", "startup_timeout"):
        seconds = getattr(asked, name)
        if seconds is not None and seconds < 1:
            raise BadRequest(
                f"Parameter {name} must be 1 second or more, not {seconds}; "
                f"leave it out, or send -1, for default_{name}."
            )
    if asked.max_latency is not None and asked.max_latency < 0:
        raise BadRequest(
            f"Parameter max_latency_ms must be 0 or more milliseconds, not {asked.max_latency}; "
            "0 is for no target, and without it the model's maxLatencyMs counts."
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
    not_installed = "" if install else _not_installed(blueprint.requirements)
    if not_installed:
        logger.warning("model %s: %s", blueprint.name, not_installed)
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
    if settings.max_latency and settings.batch_policy == "delay":
        logger.warning(
            "model %s: batchPolicy delay has no effect beside maxLatencyMs=%s, which decides how "
            "long a batch waits; set one of them",
            blueprint.name,
            settings.max_latency,
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
            not_installed=not_installed,
        ),
        next_device=devices.assigner(settings.device_type, ids),
        device_type=kind,
        device_ids=ids,
        gpu_sets=gpu_sets,
    )


def _not_installed(requirements: str | None) -> str:
    if requirements is None:
        return ""
    return f"its requirementsFile {requirements} is not installed without {INSTALL_SETTING}"


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
