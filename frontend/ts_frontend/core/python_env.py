"""Python packages of a model's own: ``useVenv`` and ``install_py_dep_per_model``.

`registration` calls `prepare` once per version, before its workers start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import site
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ts_frontend.core.archive import Archive
from ts_frontend.errors import ModelSetupFailed

INSTALL_LIMIT = 1800.0  # seconds for one venv or pip run; a wheel of torch takes minutes
_OUTPUT_LINES = 30


@dataclass(frozen=True, slots=True)
class PythonNeeds:
    """What a model asks for.

    Args:
        requirements: the manifest's ``requirementsFile``; None where nothing is to be installed,
            also when the server forbids it.
        python: the interpreter to run pip and venv with.
    """

    model: str
    use_venv: bool
    requirements: str | None
    python: str = sys.executable


async def prepare(
    needs: PythonNeeds, archive: Archive, env: Mapping[str, str], limit: float = INSTALL_LIMIT
) -> str | None:
    """Make the venv, install the requirements; both beside the model's files, so that they go
    away with the model. Cancelling ends pip.

    Returns:
        The venv's interpreter, or None for the one that was given.

    Raises:
        ModelSetupFailed: TorchServe's text, then the last lines that the tool printed.
    """
    python = None
    if needs.use_venv:
        try:
            python = await _make_venv(needs, archive, env, limit)
        except OSError as error:
            text = f"Virtual environment creation failed for model {needs.model}\n{error}"
            raise ModelSetupFailed(text) from error
    if needs.requirements is not None:
        await _install(needs, archive, env, limit, python)
    return python


def own_packages_dir(archive: Archive) -> Path:
    """Where packages of the model go: its unpacked folder, or beside the link to a folder that
    is used in place and must stay as it is. Both are `Archive.root`."""
    return archive.root


async def _make_venv(
    needs: PythonNeeds, archive: Archive, env: Mapping[str, str], limit: float
) -> str:
    folder = own_packages_dir(archive) / "venv"
    failed = f"Virtual environment creation failed for model {needs.model}"
    command = [needs.python, "-m", "venv", "--clear", str(folder)]
    await _run(command, folder.parent, env, limit, failed)
    python = folder / "bin" / "python"
    ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = (await _run(ask, folder.parent, env, limit, failed)).strip().splitlines()[-1]
    # addsitedir, because a .pth file in a folder that a .pth file merely names is not read, and
    # an editable install of ours consists of just such a file.
    lines = [f"import site; site.addsitedir({path!r})\n" for path in _inherited()]
    (Path(packages) / "inherited-site-packages.pth").write_text("".join(lines))
    return str(python)


def _inherited() -> list[str]:
    found = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        found.append(site.getusersitepackages())
    return [path for path in dict.fromkeys(found) if os.path.isdir(path)]


async def _install(
    needs: PythonNeeds,
    archive: Archive,
    env: Mapping[str, str],
    limit: float,
    venv_python: str | None,
) -> None:
    failed = f"Custom pip package installation failed for model {needs.model}"
    listed = archive.model_dir / str(needs.requirements)
    if not listed.is_file():
        raise ModelSetupFailed(f"{failed}\nThe archive has no file {needs.requirements}.")
    target = own_packages_dir(archive)
    if venv_python is not None:
        where = ["--upgrade-strategy", "only-if-needed"]
    else:
        where = ["-t", str(target)]
    pip = [venv_python or needs.python, "-m", "pip", "install", "--no-input", "-U"]
    await _run([*pip, *where, "-r", str(listed)], target, env, limit, failed)


async def _run(
    command: list[str], cwd: Path, env: Mapping[str, str], limit: float, failed: str
) -> str:
    """Run a command to its end in a process group of its own, and return what it printed.

    Not by asyncio: its event loop would take SIGCHLD from whoever reaps the workers. In the
    server's own session, which that one leaves alone.
    """
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  (blocks for the exec only)
            command,
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    except OSError as error:
        raise ModelSetupFailed(f"{failed}\n{command[0]}: {error.strerror}") from error
    running = asyncio.ensure_future(asyncio.to_thread(process.communicate))
    try:
        async with asyncio.timeout(limit):
            output, _ = await asyncio.shield(running)
    except TimeoutError:
        raise ModelSetupFailed(f"{failed}\nIt did not end within {limit:.0f} s.") from None
    finally:
        if not running.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await asyncio.wait([running])
    text = output.decode(errors="replace")
    if process.returncode != 0:
        tail = "\n".join(text.strip().splitlines()[-_OUTPUT_LINES:])
        raise ModelSetupFailed(f"{failed}\n{tail}")
    return text
