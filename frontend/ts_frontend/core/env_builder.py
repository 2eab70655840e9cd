"""Makes an environment of a model's own packages that sees the interpreter's packages behind them.

`python_env` calls `build`, by way of `env_cache`. One kind serves both settings: with ``useVenv``
workers run its interpreter, without it they run the server's and have its packages on their path.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ts_frontend.core.command import CommandFailed, run
from ts_frontend.core.interpreter import Interpreter
from ts_frontend.core.requirements import Requirements

Builder = Literal["pip", "uv"]

# Large, and made for each other and for the handlers of `ts`.
KEPT = ("torch", "torchvision", "numpy")
_CULPRITS = (
    re.compile(r"No matching distribution found for (\S+)"),
    re.compile(r"satisfies the requirement (\S+)"),
    re.compile(r"Cannot install (.+?) because"),
    re.compile(
        r"Failed to build (?:installable wheels for some pyproject.toml based projects )?(.+)"
    ),
    re.compile(r"Failed building wheel for (\S+)"),
    re.compile(r"Because (\S+?) was not found"),
    re.compile(r"Invalid requirement: (.+?)(?::|$)"),
)


class Contradiction(Exception):
    """A requirement can't be met beside the server's packages; the text names both versions."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What an environment is made of.

    Args:
        kept: packages of the interpreter that must stay as they are, with their versions.
        venv: workers run the environment's own interpreter.
    """

    interpreter: Interpreter
    requirements: Requirements
    kept: Mapping[str, str]
    venv: bool
    builder: Builder

    @property
    def key(self) -> str:
        """A hash of all that decides about the outcome, but for what an index has to offer."""
        facts = {
            "requirements": self.requirements.identity,
            "python": [self.interpreter.path, self.interpreter.tag, *self.interpreter.version],
            "behind": [self.interpreter.folders, sorted(self.interpreter.packages.items())],
            "kept": sorted(self.kept.items()),
            "how": [self.venv, self.builder],
        }
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def kept_packages(
    interpreter: Interpreter, requirements: Requirements, *, venv: bool
) -> dict[str, str]:
    """Versions of `KEPT` that the environment must not replace.

    A venv may bring its own: a worker with another interpreter shares nothing with the server.

    Raises:
        Contradiction: without a venv, another version is asked for.
    """
    from packaging.utils import canonicalize_name  # late, as in `requirements`

    kept = {name: interpreter.packages[name] for name in KEPT if name in interpreter.packages}
    python = ".".join(map(str, interpreter.version))
    marks = {"python_version": python.rpartition(".")[0], "python_full_version": python}
    for asked in requirements.named:
        name = canonicalize_name(asked.name)
        version = kept.get(name)
        if version is None or (asked.marker and not asked.marker.evaluate(marks)):
            continue
        if asked.url is None and asked.specifier.contains(version, prereleases=True):
            continue
        if not venv:
            raise Contradiction(
                f"It requires {asked}, and its workers run beside {name} {version} of the server. "
                "Allow that version, or set useVenv: true in the model's yaml to bring your own."
            )
        kept.pop(name)
        if name == "torch":
            kept.pop("torchvision", None)  # made for one version of torch
    return kept


async def make_venv(
    interpreter: Interpreter, folder: Path, env: Mapping[str, str], limit: float
) -> dict[str, str]:
    """A venv that also sees the packages of its interpreter, behind its own.

    Returns:
        ``python`` and ``packages``: its interpreter, and where packages go.

    Raises:
        CommandFailed, OSError: it can't be made.
    """
    # Where there is a pip, the venv sees it, and need not have one of its own.
    pip = ["--without-pip"] if "pip" in interpreter.packages else []
    await run([interpreter.path, "-m", "venv", "--clear", *pip, str(folder)], env, limit)
    python = str(folder / "bin" / "python")
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = (await run(ask, env, limit)).strip().splitlines()[-1]
    # addsitedir, because a .pth file in a folder that a .pth file merely names is not read, and
    # an editable install of ours consists of just such a file.
    lines = [f"import site; site.addsitedir({path!r})" for path in interpreter.folders]
    _write(Path(packages, "inherited-site-packages.pth"), lines)
    return {"python": python, "packages": packages}


async def install(
    recipe: Recipe, venv: Mapping[str, str], env: Mapping[str, str], limit: float
) -> None:
    """Install the requirements into what `make_venv` made; the files that say what stay there.

    Raises:
        CommandFailed: the text names the package where the tool does, and ends with its last lines.
        Contradiction: what was installed needs other versions of the packages that are kept.
        OSError: the files can't be written.
    """
    if not recipe.requirements.lines:
        return
    folder = Path(venv["python"]).parents[1]
    asked = _write(folder / "requirements.txt", recipe.requirements.lines)
    command = _uv(recipe, folder, env) if recipe.builder == "uv" else _pip(recipe, folder)
    command += ["-r", asked]
    if recipe.requirements.wheels is not None:
        command += ["--no-index", "--find-links", str(recipe.requirements.wheels)]
    try:
        await run(command, env, limit)
    except CommandFailed as error:
        raise CommandFailed(_explain(str(error), recipe.kept)) from error
    problem = next(_problems(venv["packages"], recipe.kept), None)
    if problem is not None:
        raise Contradiction(problem)


def _pip(recipe: Recipe, folder: Path) -> list[str]:
    constraints = [f"{name}=={version}" for name, version in recipe.kept.items()]
    command = [str(folder / "bin" / "python"), "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "-U", "--upgrade-strategy", "only-if-needed"]
    return [*command, "-c", _write(folder / "constraints.txt", constraints)]


def _uv(recipe: Recipe, folder: Path, env: Mapping[str, str]) -> list[str]:
    # uv does not see what a venv inherits: without this it would install torch a second time.
    overrides = [f'{name}; sys_platform == "none"' for name in recipe.kept]
    command = [*_find_uv(env), "pip", "install", "--no-progress", "--python", str(folder)]
    return [*command, "--override", _write(folder / "overrides.txt", overrides)]


def _write(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def _find_uv(env: Mapping[str, str]) -> list[str]:
    found = shutil.which("uv", path=env.get("PATH"))
    if found is not None:
        return [found]
    if importlib.util.find_spec("uv") is not None:
        return [sys.executable, "-m", "uv"]
    raise CommandFailed(
        "py_env_builder is uv, and uv is neither on the PATH of the server nor among its packages: "
        "pip install uv, or set py_env_builder=pip."
    )


def _problems(packages: str, kept: Mapping[str, str]) -> Iterator[str]:
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    for found in importlib.metadata.distributions(path=[packages]):
        for line in found.requires or ():
            try:
                needed = Requirement(line)
            except InvalidRequirement:
                continue
            version = kept.get(canonicalize_name(needed.name))
            if version is None or (needed.marker and not needed.marker.evaluate({"extra": ""})):
                continue
            if not needed.specifier.contains(version, prereleases=True):
                name = found.metadata["Name"]
                yield f"{name} {found.version} requires {needed}.{_cure(kept)}"
    if Path(packages, "ts").is_dir():
        yield "The requirements bring a package ts of their own, in place of the server's."


def _explain(output: str, kept: Mapping[str, str]) -> str:
    """What the tool said, behind the package that it was about, and before what may help."""
    culprit = next(filter(None, (pattern.search(output) for pattern in _CULPRITS)), None)
    head = f"Failed: {culprit[1]}\n" if culprit else ""
    conflict = "constraint" in output and any(f"{name}==" in output for name in kept)
    return f"{head}{output}{_cure(kept) if conflict else ''}"


def _cure(kept: Mapping[str, str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in kept.items())
    return (
        f"\nThe server's {versions} are kept. With useVenv: true in the model's yaml, requirements "
        "that name another version get it."
    )
