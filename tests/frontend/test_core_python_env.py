"""Packages of a model's own, with real venvs and pip, but nothing from the network."""

from __future__ import annotations

import asyncio
import os
import subprocess
import textwrap
from pathlib import Path

import pytest

from tests.core_rig import model_folder, until
from ts_frontend.core.archive import Archive
from ts_frontend.core.python_env import PythonNeeds, prepare
from ts_frontend.errors import ModelSetupFailed


def an_archive(tmp_path: Path, linked: bool = False) -> Archive:
    """A model that ships a package and requires it by a path."""
    folder = model_folder(tmp_path / "src")
    package = folder / "shipped"
    package.mkdir()
    (package / "shipped_thing.py").write_text("VALUE = 42\n")
    (package / "setup.py").write_text(
        "from setuptools import setup\nsetup(name='shipped', py_modules=['shipped_thing'])\n"
    )
    (folder / "requirements.txt").write_text(f"{package}\n")
    if not linked:
        return Archive("m.mar", folder, folder, {})
    root = tmp_path / "root"
    root.mkdir()
    (root / "m").symlink_to(folder)
    return Archive("m.mar", root / "m", root, {})


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """An "interpreter" that writes down how it was called, and does what a file tells it."""
    path = tmp_path / "python"
    path.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/sh
            echo $$ > {tmp_path}/pid
            echo "$PWD|$*" >> {tmp_path}/calls
            if [ -f {tmp_path}/act ]; then . {tmp_path}/act; fi
            """
        )
    )
    path.chmod(0o755)
    return path


def calls(tmp_path: Path) -> list[str]:
    path = tmp_path / "calls"
    return path.read_text().splitlines() if path.exists() else []


async def test_nothing_asked_nothing_done(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    assert await prepare(PythonNeeds("m", False, None), archive, os.environ) is None


@pytest.mark.parametrize("linked", [False, True])
async def test_pip_installs_beside_the_model(
    tmp_path: Path, fake_python: Path, linked: bool
) -> None:
    archive = an_archive(tmp_path, linked)
    needs = PythonNeeds("m", False, "requirements.txt", str(fake_python))
    assert await prepare(needs, archive, os.environ) is None
    (call,) = calls(tmp_path)
    target = archive.root
    listed = archive.model_dir / "requirements.txt"
    assert call == f"{target}|-m pip install --no-input -U -t {target} -r {listed}"


async def test_a_venv_inherits_our_packages_and_gets_the_requirements(tmp_path: Path) -> None:
    archive = an_archive(tmp_path)
    env = {**os.environ, "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    env.pop("PYTHONPATH", None)
    python = await prepare(PythonNeeds("m", True, None), archive, env)
    assert python == str(archive.root / "venv" / "bin" / "python")
    # yaml is ours, and ts_worker comes by a .pth file of an editable install.
    code = "import yaml, ts_worker, sys; print(sys.prefix)"
    command = [python, "-c", code]
    done = await asyncio.to_thread(
        subprocess.run, command, env=env, cwd="/", capture_output=True, text=True
    )
    assert done.stdout.strip() == str(archive.root / "venv"), done.stderr


async def test_pip_in_a_venv_upgrades_only_what_it_must(tmp_path: Path, fake_python: Path) -> None:
    archive = an_archive(tmp_path)
    bin = archive.root / "venv" / "bin"
    (tmp_path / "act").write_text(
        f"mkdir -p {bin}; cp {fake_python} {bin}/python; echo {archive.root}\n"
    )
    needs = PythonNeeds("m", True, "requirements.txt", str(fake_python))
    assert await prepare(needs, archive, os.environ) == f"{bin}/python"
    root = archive.root
    listed = archive.model_dir / "requirements.txt"
    make, _, install = [call.split("|")[1] for call in calls(tmp_path)]
    assert make == f"-m venv --clear {root}/venv"
    assert install == (
        f"-m pip install --no-input -U --upgrade-strategy only-if-needed -r {listed}"
    )


async def test_failures_end_with_what_the_tool_said(tmp_path: Path, fake_python: Path) -> None:
    archive = an_archive(tmp_path)
    (tmp_path / "act").write_text("echo no such wheel >&2; exit 3\n")
    needs = PythonNeeds("m", False, "requirements.txt", str(fake_python))
    with pytest.raises(ModelSetupFailed) as caught:
        await prepare(needs, archive, os.environ)
    assert caught.value.message == (
        "Custom pip package installation failed for model m\nno such wheel"
    )
    with pytest.raises(ModelSetupFailed, match=r"^Virtual environment creation failed for model m"):
        await prepare(PythonNeeds("m", True, None, str(fake_python)), archive, os.environ)
    with pytest.raises(ModelSetupFailed, match=r"The archive has no file other\.txt\."):
        await prepare(PythonNeeds("m", False, "other.txt"), archive, os.environ)
    needs = PythonNeeds("m", False, "requirements.txt", "/none/python")
    with pytest.raises(ModelSetupFailed, match="No such file"):
        await prepare(needs, archive, os.environ)


async def test_an_install_has_a_limit_and_can_be_cancelled(
    tmp_path: Path, fake_python: Path
) -> None:
    archive = an_archive(tmp_path)
    (tmp_path / "act").write_text("exec tail -f /dev/null\n")
    needs = PythonNeeds("m", False, "requirements.txt", str(fake_python))
    with pytest.raises(ModelSetupFailed, match="did not end within 0 s"):
        await prepare(needs, archive, os.environ, 0.2)
    task = asyncio.create_task(prepare(needs, archive, os.environ))
    await until(lambda: len(calls(tmp_path)) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
