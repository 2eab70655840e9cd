"""What is known about the interpreter that a model's packages are made for and its workers run in.

`python_env` asks it before it builds anything.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ts_frontend.core.command import CommandFailed, run

OLDEST = (3, 9)  # what `ts` and `ts_worker.runtime` are written for
_LIMIT = 60.0

# Also runs in an interpreter that is far too old, so that its version can be named.
_QUESTION = """
import json, sys
known = {"version": list(sys.version_info[:3])}
if sys.version_info >= (3, 9):
    import importlib.metadata, os, site, sysconfig
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found += site.getsitepackages()
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    known["folders"] = [path for path in dict.fromkeys(found) if os.path.isdir(path)]
    known["tag"] = sys.implementation.cache_tag + " " + sysconfig.get_platform()
    known["packages"] = {}
    for one in importlib.metadata.distributions():
        try:
            name = one.metadata["Name"].lower().replace("_", "-")
            known["packages"].setdefault(name, one.version)
        except (AttributeError, LookupError, OSError, TypeError):
            pass  # what is left of a package that was removed by hand
print("\\n" + json.dumps(known))
"""


class UnusableInterpreter(Exception):
    """The text says why, and what to do."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """An interpreter, as it answered.

    Args:
        folders: its site-packages, in their order.
        tag: implementation, version and platform, as they decide about binary wheels.
        packages: name, in lower case and with dashes, to version.
    """

    path: str
    version: tuple[int, ...]
    folders: tuple[str, ...]
    tag: str
    packages: Mapping[str, str]


async def ask(python: str, env: Mapping[str, str]) -> Interpreter:
    """Have an interpreter tell about itself.

    Raises:
        UnusableInterpreter: there is none, it is older than `OLDEST`, or it doesn't work.
    """
    try:
        lines = (await run([python, "-c", _QUESTION], env, _LIMIT)).splitlines()
        answer = json.loads([line for line in lines if line.startswith("{")][-1])
        version = tuple(answer["version"])
    except CommandFailed as error:
        raise UnusableInterpreter(str(error)) from error
    except (ValueError, LookupError, TypeError):
        raise UnusableInterpreter(f"{python} is no Python interpreter.") from None
    if version < OLDEST:
        raise UnusableInterpreter(
            f"{python} is Python {'.'.join(map(str, version))}; "
            f"workers need {'.'.join(map(str, OLDEST))} or newer."
        )
    return Interpreter(python, version, tuple(answer["folders"]), answer["tag"], answer["packages"])


async def check_worker(python: str, env: Mapping[str, str]) -> None:
    """Make sure that a worker can run there: of all packages it needs yaml only.

    Raises:
        UnusableInterpreter: it can't be imported.
    """
    try:
        await run([python, "-c", "import yaml"], env, _LIMIT)
    except CommandFailed as error:
        raise UnusableInterpreter(
            f"{python} has no package yaml, which workers need: install pyyaml for it, or name "
            f"pyyaml in the model's requirements.\n{error}"
        ) from error


def locate(text: str, model_dir: Path, env: Mapping[str, str]) -> str:
    """The file that ``pythonExecutable`` means: an absolute path, a path inside the model's
    folder, or, without a slash, a command on PATH.

    Raises:
        UnusableInterpreter: there is no such program.
    """
    if os.sep not in text:
        found = shutil.which(text, path=env.get("PATH"))
        if found is None:
            raise UnusableInterpreter(f"There is no {text} on the PATH of the server.")
        return os.path.abspath(found)
    path = os.path.abspath(model_dir / text)
    if not os.path.isfile(path):
        raise UnusableInterpreter(f"There is no file {path}.")
    if not os.access(path, os.X_OK):
        raise UnusableInterpreter(f"{path} may not be executed: chmod +x makes it a program.")
    return path
