"""Packages of a model's own, with real venvs and pip, but nothing from the network."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.core_rig import model_folder, until
from tests.wheels import make_wheel
from ts_frontend.core.archive import Archive
from ts_frontend.core.env_cache import EnvCache
from ts_frontend.core.python_env import PythonNeeds, PythonSetup, prepare
from ts_frontend.errors import ModelSetupFailed

ENV = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
NEEDS = PythonNeeds("m", False, "requirements.txt")
NO_PIP = "Custom pip package installation failed for model m\n"


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[EnvCache]:
    cache = EnvCache(tmp_path / "envs", 20)
    yield cache
    for holder in list(cache._held):
        cache.release(holder)


def built(cache: EnvCache) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in cache.folder.iterdir())
    return []


def an_archive(place: Path, requirements: str = "thing", *wheels: str) -> Archive:
    """A model with a handler that would break pip, were it run in its folder."""
    folder = model_folder(place)
    (folder / "logging.py").write_text("raise RuntimeError('not to be imported')\n")
    (folder / "requirements.txt").write_text(requirements)
    for wheel in wheels or ("thing==1.0",):
        name, _, number = wheel.partition("==")
        make_wheel(folder / "wheels", name, number)
    return Archive("m.mar", folder, folder, {})


def ask(python: str, code: str, *import_paths: str) -> str:
    code = f"import sys; sys.path[:0] = sys.argv[1:]; {code}"
    command = [python, "-c", code, *import_paths]
    done = subprocess.run(command, env=ENV, cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """An "interpreter" that writes down its pid and does what a file tells it."""
    path = tmp_path / "python"
    path.write_text(
        textwrap.dedent(
            f"""\
            #!/bin/sh
            echo $$ > {tmp_path}/pid
            if [ -f {tmp_path}/act ]; then . {tmp_path}/act; fi
            """
        )
    )
    path.chmod(0o755)
    return path


async def test_nothing_asked_nothing_done(tmp_path: Path, cache: EnvCache) -> None:
    archive = an_archive(tmp_path)
    assert await prepare(PythonNeeds("m", False, None), archive, ENV, cache) is None


async def test_packages_go_on_the_import_path_and_are_shared(
    tmp_path: Path, cache: EnvCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, two = (an_archive(tmp_path / name, "thing\nnumpy\n") for name in "ab")
    setup, same = [await prepare(NEEDS, archive, ENV, cache) for archive in (one, two)]
    assert setup == same
    assert setup is not None
    assert setup.python is None
    assert caplog.text.count("Building the environment of model m") == 1
    (folder,) = setup.import_paths
    assert folder.startswith(f"{cache.folder}{os.sep}")
    code = "import thing, numpy; print(thing.VERSION, thing.__file__, numpy.__version__)"
    answer = await asyncio.to_thread(ask, sys.executable, code, folder)
    assert answer == f"1.0 {folder}/thing.py {version('numpy')}"
    assert not (Path(folder) / "numpy").exists()  # the server has it
    (three,) = (an_archive(tmp_path / "c", "thing\n", "thing==1.0", "thing==2.0"),)
    other = await prepare(NEEDS, three, ENV, cache)
    assert other is not None
    answer = await asyncio.to_thread(
        ask, sys.executable, "import thing; print(thing.VERSION)", *other.import_paths
    )
    assert answer == "2.0"


async def test_a_venv_inherits_the_servers_packages_and_gets_the_requirements(
    tmp_path: Path, cache: EnvCache
) -> None:
    archive = an_archive(tmp_path)
    setup = await prepare(replace(NEEDS, use_venv=True), archive, ENV, cache)
    assert setup is not None
    assert setup.python is not None
    # yaml is the server's, and ts_worker comes by a .pth file of an editable install.
    code = "import yaml, ts_worker, thing; print(sys.prefix, thing.VERSION)"
    answer = await asyncio.to_thread(ask, setup.python, code)
    assert answer == f"{Path(setup.python).parents[1]} 1.0"
    assert setup.import_paths == ()


async def test_a_venv_without_packages_is_the_models_own(tmp_path: Path, cache: EnvCache) -> None:
    archive = an_archive(tmp_path)
    setup = await prepare(PythonNeeds("m", True, None), archive, ENV, cache)
    assert setup == PythonSetup(str(archive.root / "venv" / "bin" / "python"))
    assert built(cache) == []
    answer = await asyncio.to_thread(ask, str(setup.python), "import yaml; print(sys.prefix)")
    assert answer == str(archive.root / "venv")


@pytest.mark.parametrize(("use_venv", "asked"), [(False, "numpy<1"), (False, "wants"), (True, "x")])
async def test_the_servers_torch_and_numpy_are_kept(
    tmp_path: Path, cache: EnvCache, use_venv: bool, asked: str
) -> None:
    archive = an_archive(tmp_path, f"{asked}\n")
    make_wheel(archive.root / "wheels", "wants", "1", "numpy<1")
    make_wheel(archive.root / "wheels", "x", "1", "numpy<1")
    make_wheel(archive.root / "wheels", "numpy", "0.9")
    needs = replace(NEEDS, use_venv=use_venv)
    with pytest.raises(ModelSetupFailed) as caught:
        await prepare(needs, archive, ENV, cache)
    text = caught.value.message
    assert text.startswith(NO_PIP)
    for part in (asked, "numpy<1", version("numpy"), "useVenv: true"):
        assert part in text
    assert built(cache) == []


async def test_a_venv_may_bring_another_version_of_its_own(tmp_path: Path, cache: EnvCache) -> None:
    archive = an_archive(tmp_path, "numpy<1\nwants\n")
    make_wheel(archive.root / "wheels", "wants", "1", "numpy<1")
    make_wheel(archive.root / "wheels", "numpy", "0.9")
    setup = await prepare(replace(NEEDS, use_venv=True), archive, ENV, cache)
    assert setup is not None
    code = "import numpy, wants; print(numpy.VERSION)"
    assert await asyncio.to_thread(ask, str(setup.python), code) == "0.9"


async def test_a_failure_names_the_package_and_leaves_nothing(
    tmp_path: Path, cache: EnvCache, fake_python: Path
) -> None:
    archive = an_archive(tmp_path, "thing\nnosuch==3\n")
    with pytest.raises(ModelSetupFailed) as caught:
        await prepare(NEEDS, archive, ENV, cache)
    head, _, tail = caught.value.message.removeprefix(NO_PIP).partition("\n")
    assert head == "Failed: nosuch==3"
    assert tail.endswith("ERROR: No matching distribution found for nosuch==3")
    assert built(cache) == []
    (tmp_path / "act").write_text("echo broken >&2; exit 3\n")
    for needs, text in (
        (replace(NEEDS, python=str(fake_python)), f"{NO_PIP}broken"),
        (replace(NEEDS, requirements="no.txt"), f"{NO_PIP}The archive has no file no.txt."),
        (replace(NEEDS, python="/none/python"), f"{NO_PIP}/none/python: No such file"),
        (
            PythonNeeds("m", True, None, str(fake_python)),
            "Virtual environment creation failed for model m\nbroken",
        ),
    ):
        with pytest.raises(ModelSetupFailed) as caught:
            await prepare(needs, archive, ENV, cache)
        assert caught.value.message.startswith(text)


async def test_an_install_has_a_limit_and_can_be_cancelled(
    tmp_path: Path, cache: EnvCache, fake_python: Path
) -> None:
    archive = an_archive(tmp_path)
    needs = replace(NEEDS, python=str(fake_python))
    (tmp_path / "act").write_text("exec tail -f /dev/null\n")
    task = asyncio.create_task(prepare(needs, archive, ENV, cache))
    await until((tmp_path / "pid").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: bool((tmp_path / "pid").read_text()))
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    with pytest.raises(ModelSetupFailed, match="did not end within 0 s"):
        await prepare(NEEDS, archive, ENV, cache, 0.01)
    assert built(cache) == []


async def test_without_a_cache_the_environment_is_the_models(
    tmp_path: Path, cache: EnvCache, caplog: pytest.LogCaptureFixture
) -> None:
    archive = an_archive(tmp_path / "store")
    cache.folder.write_text("no folder")
    setup = await prepare(NEEDS, archive, ENV, cache)
    assert setup is not None
    assert Path(setup.import_paths[0]).is_relative_to(archive.root / "venv")
    assert (archive.root / "requirements.txt").read_text() == "thing"
    assert "can't be shared, as py_env_cache can't be used" in caplog.text


async def test_what_would_bring_a_second_ts_is_skipped(
    tmp_path: Path, cache: EnvCache, caplog: pytest.LogCaptureFixture
) -> None:
    archive = an_archive(tmp_path, "torchserve==0.12\n")
    assert await prepare(NEEDS, archive, ENV, cache) is not None
    assert "Model m: requirement torchserve is skipped" in caplog.text
    (archive.root / "requirements.txt").write_text("sly\n")
    make_wheel(archive.root / "wheels", "sly", "1", files={"ts/__init__.py": ""})
    with pytest.raises(ModelSetupFailed, match="bring a package ts of their own"):
        await prepare(NEEDS, archive, ENV, cache)


async def test_uv_is_told_what_the_server_has(
    tmp_path: Path, cache: EnvCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    uv.chmod(0o755)
    archive = an_archive(tmp_path / "store")
    needs = replace(NEEDS, builder="uv")
    env = {**ENV, "PATH": f"{uv.parent}:{ENV['PATH']}"}
    await prepare(needs, archive, env, cache)
    (folder,) = cache.folder.glob("*/venv")
    assert (tmp_path / "called").read_text().split() == [
        *("pip", "install", "--no-progress", "--python", str(folder)),
        *("--override", f"{folder}/overrides.txt", "-r", f"{folder}/requirements.txt"),
        *("--no-index", "--find-links", f"{archive.root}/wheels"),
    ]
    assert 'torch; sys_platform == "none"\n' in (folder / "overrides.txt").read_text()
    # uv does not hold what it installs against what the server has.
    uv.write_text(
        "#!/bin/sh\ncd $5/lib/python3.*/site-packages; mkdir w-1.dist-info\n"
        "printf 'Name: w\\nVersion: 1\\nRequires-Dist: numpy<1\\n' > w-1.dist-info/METADATA\n"
    )
    (archive.root / "requirements.txt").write_text("w\n")
    with pytest.raises(ModelSetupFailed, match="w 1 requires numpy<1"):
        await prepare(needs, archive, env, cache)
    monkeypatch.setattr("ts_frontend.core.env_builder.importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelSetupFailed, match="py_env_builder is uv, and uv is neither on"):
        await prepare(needs, archive, {**ENV, "PATH": "/none"}, cache)


async def test_a_model_may_run_in_another_interpreter(
    tmp_path: Path, cache: EnvCache, fake_python: Path
) -> None:
    archive = an_archive(tmp_path / "store")
    other = tmp_path / "other"
    command = [sys.executable, "-m", "venv", "--without-pip", str(other)]
    await asyncio.to_thread(subprocess.run, command, check=True, env=ENV)
    python = str(other / "bin" / "python")
    needs = PythonNeeds("m", False, None, executable=python)
    with pytest.raises(ModelSetupFailed) as caught:
        await prepare(needs, archive, ENV, cache)
    assert caught.value.message.startswith(
        f"pythonExecutable {python} can't be used for model m\n{python} has no package yaml"
    )
    (packages,) = other.glob("lib/python3*/site-packages")
    (packages / "yaml.py").touch()
    assert await prepare(needs, archive, ENV, cache) == PythonSetup(python)
    inside = archive.model_dir / "python"
    inside.symlink_to(python)
    for named in ("./python", "python"):
        env = {**ENV, "PATH": str(other / "bin")}
        setup = await prepare(replace(needs, executable=named), archive, env, cache)
        assert setup == PythonSetup(str(inside) if named == "./python" else python)


@pytest.mark.parametrize(
    ("executable", "act", "cause"),
    [
        ("/none/python", "", "There is no file /none/python."),
        ("no-such-python", "", "There is no no-such-python on the PATH of the server."),
        ("./requirements.txt", "", "requirements.txt may not be executed: chmod +x"),
        (None, "echo hello", " is no Python interpreter."),
        (None, """echo '{"version": [3, 8, 18]}'""", "is Python 3.8.18; workers need 3.9 or newer"),
        (None, "echo help >&2; exit 1", "\nhelp"),
    ],
)
async def test_an_interpreter_that_can_not_run_workers_is_refused(
    tmp_path: Path, cache: EnvCache, fake_python: Path, executable: str, act: str, cause: str
) -> None:
    (tmp_path / "act").write_text(f"{act}\n")
    archive = an_archive(tmp_path / "store")
    needs = PythonNeeds("m", False, None, executable=executable or str(fake_python))
    with pytest.raises(ModelSetupFailed) as caught:
        await prepare(needs, archive, ENV, cache)
    assert caught.value.message.startswith(f"pythonExecutable {needs.executable} can't be used")
    assert cause in caught.value.message
