"""Python packages and interpreters of a model's own: ``useVenv``, ``install_py_dep_per_model`` and
``pythonExecutable``.

`registration` calls `prepare` once per version, before its workers start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ts_frontend.core.archive import Archive
from ts_frontend.core.command import CommandFailed
from ts_frontend.core.env_builder import (
    Builder,
    Contradiction,
    Recipe,
    install,
    kept_packages,
    make_venv,
)
from ts_frontend.core.env_cache import EnvCache, Record
from ts_frontend.core.interpreter import (
    Interpreter,
    UnusableInterpreter,
    ask,
    check_worker,
    locate,
)
from ts_frontend.core.requirements import BadRequirements, read_requirements
from ts_frontend.errors import ModelSetupFailed

logger = logging.getLogger(__name__)

INSTALL_LIMIT = 1800.0  # seconds for one venv or pip run; a wheel of torch takes minutes


@dataclass(frozen=True, slots=True)
class PythonNeeds:
    """What a model asks for.

    Args:
        requirements: the manifest's ``requirementsFile``; None where nothing is to be installed,
            also when the server forbids it.
        python: the interpreter to run pip and venv with, unless the model names one.
        executable: the yaml's ``pythonExecutable``.
    """

    model: str
    use_venv: bool
    requirements: str | None
    python: str = sys.executable
    executable: str | None = None
    builder: Builder = "pip"


@dataclass(frozen=True, slots=True)
class PythonSetup:
    """What the workers of a model run with.

    Args:
        python: their interpreter; None for the one that they have anyway.
        import_paths: folders of packages, behind those of the model.
    """

    python: str | None
    import_paths: tuple[str, ...] = ()


async def prepare(
    needs: PythonNeeds,
    archive: Archive,
    env: Mapping[str, str],
    cache: EnvCache,
    limit: float = INSTALL_LIMIT,
) -> PythonSetup | None:
    """Find or make the environment that a model needs. Cancelling ends pip.

    Returns:
        None where it needs nothing. An environment with packages is the cache's, held for
        ``archive.root`` until its `release`.

    Raises:
        ModelSetupFailed: TorchServe's text, then the last lines that the tool printed.
    """
    if not needs.use_venv and needs.requirements is None and needs.executable is None:
        return None
    maker = _Maker(needs, archive, env, cache, limit)
    try:
        return await maker.setup()
    except BaseException:
        cache.release(archive.root)
        raise


class _Maker:
    """One call of `prepare`: its arguments, and the headlines of what may go wrong."""

    def __init__(
        self,
        needs: PythonNeeds,
        archive: Archive,
        env: Mapping[str, str],
        cache: EnvCache,
        limit: float,
    ) -> None:
        self._needs = needs
        self._archive = archive
        self._env = env
        self._cache = cache
        self._limit = limit
        # An interpreter that is not the server's may have yaml from there only, and imports it
        # before the model's paths count.
        self._runs_in_it = needs.use_venv or needs.executable is not None
        self._no_venv = f"Virtual environment creation failed for model {needs.model}"
        self._no_packages = f"Custom pip package installation failed for model {needs.model}"
        self._no_python = (
            f"pythonExecutable {needs.executable} can't be used for model {needs.model}"
        )

    async def setup(self) -> PythonSetup:
        needs = self._needs
        interpreter = await self._interpreter()
        python = None if needs.executable is None else interpreter.path
        paths: tuple[str, ...] = ()
        if needs.use_venv or needs.requirements is not None:
            made = await self._environment(interpreter)
            if self._runs_in_it:
                python = made["python"]
            else:
                paths = (made["packages"],)
        if needs.executable is not None:
            with _told_as(self._no_python):
                await check_worker(python or needs.python, self._env)
        return PythonSetup(python, paths)

    async def _interpreter(self) -> Interpreter:
        needs = self._needs
        if needs.executable is not None:
            with _told_as(self._no_python):
                python = locate(needs.executable, self._archive.model_dir.resolve(), self._env)
                return await ask(python, self._env)
        with _told_as(self._no_venv if needs.use_venv else self._no_packages):
            return await ask(needs.python, self._env)

    async def _environment(self, interpreter: Interpreter) -> Record:
        root = self._archive.root
        if self._needs.requirements is None:
            # Not shared: a handler that asks for an empty venv may mean to install into it itself.
            with _told_as(self._no_venv):
                return await make_venv(interpreter, root / "venv", self._env, self._limit)
        recipe = await self._recipe(interpreter, self._needs.requirements)
        if Path(interpreter.path).is_relative_to(root.resolve()):
            return await self._build(recipe, root)  # an interpreter that goes away with the model
        try:
            made = await self._cache.take(recipe.key, root, partial(self._build, recipe))
        except OSError as error:
            logger.warning(
                "The environment of model %s goes into the model's folder and can't be shared, "
                "as py_env_cache can't be used: %s",
                self._needs.model,
                error,
            )
            return await self._build(recipe, root)
        logger.info("Model %s uses the environment %s", self._needs.model, made["folder"])
        return made

    async def _recipe(self, interpreter: Interpreter, file: str) -> Recipe:
        needs = self._needs
        with _told_as(self._no_packages):
            asked = await asyncio.to_thread(read_requirements, self._archive.model_dir, file)
            kept = kept_packages(interpreter, asked, venv=self._runs_in_it)
        for name in asked.skipped:
            logger.warning(
                "Model %s: requirement %s is skipped: the server has a package ts itself",
                needs.model,
                name,
            )
        return Recipe(interpreter, asked, kept, self._runs_in_it, needs.builder)

    async def _build(self, recipe: Recipe, folder: Path) -> Record:
        logger.info("Building the environment of model %s in %s", self._needs.model, folder)
        with _told_as(self._no_venv):
            venv = await make_venv(recipe.interpreter, folder / "venv", self._env, self._limit)
        with _told_as(self._no_packages):
            await install(recipe, venv, self._env, self._limit)
        return {**venv, "folder": str(folder), "builtFor": self._needs.model}


@contextlib.contextmanager
def _told_as(headline: str) -> Iterator[None]:
    try:
        yield
    except (CommandFailed, UnusableInterpreter, BadRequirements, Contradiction, OSError) as error:
        raise ModelSetupFailed(f"{headline}\n{error}") from error
