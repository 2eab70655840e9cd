"""Mended on purpose: the packages of models, and the interpreters of their workers."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core_rig import Site
from tests.wheels import make_wheel
from ts_frontend.errors import ModelSetupFailed


def a_model_with_packages(site: Site, name: str, requirements: str, *wheels: str) -> str:
    """A model whose wheels, such as ``thing==1``, are all that pip can find."""
    url = site.model(name, requirementsFile="requirements.txt")
    (Path(url) / "requirements.txt").write_text(requirements)
    for wheel in wheels:
        make_wheel(Path(url) / "wheels", *wheel.split("=="))
    return url


@pytest.fixture
async def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    """A site that installs packages, and removes what nobody uses."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    settings = {"install_py_dep_per_model": True, "py_env_cache_max": 0}
    async with Site(tmp_path, py_env_cache=tmp_path / "envs", **settings) as site:
        yield site


async def test_packages_are_installed_once(installing: Site, tmp_path: Path) -> None:
    """TorchServe ran pip for each model, at each registration and each start."""
    for name in "ab":
        url = a_model_with_packages(installing, name, "thing", "thing==1")
        await installing.register(url)
    first, second = (spec.import_paths for spec in installing.backend.specs)
    assert first[-1] == second[-1]
    (environment,) = (tmp_path / "envs").iterdir()
    assert first[-1].startswith(str(environment))
    for name, left in (("a", [environment]), ("b", [])):
        await installing.management.unregister(name, None)
        assert list((tmp_path / "envs").iterdir()) == left


async def test_packages_leave_the_servers_torch_and_numpy(installing: Site) -> None:
    """TorchServe's ``pip install -t`` put others beside them."""
    url = a_model_with_packages(installing, "m", "torch==1.0", "torch==1.0")
    with pytest.raises(ModelSetupFailed, match=r"torch==1\.0, .* beside torch \d.*useVenv"):
        await installing.register(url)
    url = a_model_with_packages(installing, "n", "numpy", "numpy==99")
    await installing.register(url)
    packages = installing.worker.spec.import_paths[-1]
    assert not [name for name in os.listdir(packages) if name.startswith("numpy")]


async def test_a_second_ts_is_not_installed(
    installing: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe installed itself into the model."""
    lines = "torchserve\ntorch-model-archiver\ntorch-workflow-archiver\n"
    await installing.register(a_model_with_packages(installing, "m", lines))
    assert caplog.text.count("is skipped: the server has a package ts itself") == 3


async def test_a_models_files_do_not_break_pip(installing: Site) -> None:
    """TorchServe ran pip in the model's folder."""
    url = a_model_with_packages(installing, "m", "./wheels/thing-1-py3-none-any.whl", "thing==1")
    (Path(url) / "logging.py").write_text("raise RuntimeError")
    await installing.register(url)
    assert (Path(installing.worker.spec.import_paths[-1]) / "thing.py").exists()


async def test_a_yaml_may_name_an_interpreter(site: Site) -> None:
    """TorchServe knew the server's own and ``python3``."""
    await site.register(site.model(yaml=f"pythonExecutable: {sys.executable}\n"))
    assert site.worker.spec.python == sys.executable
    with pytest.raises(ModelSetupFailed, match=r"^pythonExecutable no-such can't be used"):
        await site.register(site.model("n", yaml="pythonExecutable: no-such\n"))
