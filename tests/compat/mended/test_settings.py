"""Mended on purpose: config.properties, its variables, the command line and a model's yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.compat.scenes import properties
from tests.core_rig import Site
from tests.frontend.test_cli_processes import Shell, shell
from ts_frontend.config import load_config
from ts_frontend.errors import InvalidModel

__all__ = ["shell"]  # a fixture


def test_two_variables_need_no_permission(tmp_path: Path) -> None:
    """TorchServe ignored these too unless the file said enable_envvars_config=true; a container
    often has no file."""
    properties(tmp_path)
    environ = {"TS_DISABLE_TOKEN_AUTHORIZATION": "true", "TS_ENABLE_MODEL_API": "true"}
    config = load_config({}, environ, tmp_path)
    assert config.disable_token_authorization
    assert config.enable_model_api
    assert config.warnings == ()


async def test_load_models_may_have_spaces(site: Site) -> None:
    """TorchServe looked for the file " b.mar", or registered a model with the name " b"."""
    for name in ("a", "b"):
        site.model(name)
    await site.management.startup.load("a-1.0 , other = b-1.0")
    assert [model.name for model in site.catalog.defaults()] == ["a", "other"]


@pytest.mark.parametrize(
    ("yaml", "called", "response", "startup"),
    [
        ("batchSize: 2\n", {}, 70, 60),
        ("responseTimeout: 5\n", {}, 5, 60),
        ("responseTimeout: 5\n", {"response_timeout": 6, "startup_timeout": 7}, 5, 7),
    ],
)
async def test_each_timeout_falls_through_by_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    yaml: str,
    called: dict[str, int],
    response: int,
    startup: int,
) -> None:
    """Any yaml pinned both of TorchServe's timeouts, to 120 s where it did not name them; without
    one the JSON of config.properties beat the call."""
    config: dict[str, Any] = {
        "default_response_timeout": 70,
        "default_startup_timeout": 80,
        "models": {"m": {"1.0": {"startupTimeout": 60}}},
    }
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path, **config) as site:
        await site.register(site.model(yaml=yaml), 0, **called)
        settings = site.catalog.find("m").settings
        assert (settings.response_timeout, settings.startup_timeout) == (response, startup)


async def test_min_workers_alone_counts(site: Site) -> None:
    """TorchServe ignored minWorkers in a yaml that did not name maxWorkers too."""
    await site.register(site.model(yaml="minWorkers: 2\n"), 1)
    model = site.catalog.find("m")
    assert (len(model.slots), model.min_workers, model.max_workers) == (2, 2, 2)


@pytest.mark.parametrize("yaml", ["minWorkers: [\n", "just a text\n"])
async def test_a_bad_yaml_is_refused(site: Site, yaml: str) -> None:
    """TorchServe logged it and served the model with defaults."""
    with pytest.raises(InvalidModel, match=r"Failed to parse model-config\.yaml: line ") as caught:
        await site.register(site.model(yaml=yaml))
    assert caught.value.status == 400
    assert site.unpacked == 0


async def test_debug_mode_starts_one_worker_without_limits(tmp_path: Path) -> None:
    """TorchServe expected a worker that somebody had started by hand."""
    async with Site(tmp_path, debug=True) as site:
        await site.register(site.model(yaml="minWorkers: 3\nresponseTimeout: 5\n"))
        (body,) = await site.management.describe("m", None)
        assert len(body["workers"]) == body["minWorkers"] == 1
        assert body["responseTimeout"] == body["startupTimeout"] == 2**31 - 1


def test_a_start_that_fails_is_told(shell: Shell) -> None:
    """TorchServe's launcher left with 0 before the server had read its configuration."""
    assert shell.start(mode="die") == (1, "the port is taken\n")
    assert shell.start() == (0, "Model server started.\n")


def test_unknown_and_idle_keys_are_named(tmp_path: Path) -> None:
    """TorchServe ignored a misspelt key without a word. What only a JVM has a use for is named as
    well."""
    properties(tmp_path, "job_queue_sise=3", "number_of_netty_threads=4")
    unknown, idle = load_config({}, {}, tmp_path).warnings
    assert "unknown key job_queue_sise is ignored, did you mean job_queue_size?" in unknown
    assert "number_of_netty_threads: accepted, no effect" in idle


def test_java_plugins_are_named_at_the_start(tmp_path: Path) -> None:
    """TorchServe loaded the archives of this folder; a server without a JVM must say so."""
    (tmp_path / "plugins").mkdir()
    jar = tmp_path / "plugins" / "endpoint-plugins.jar"
    jar.touch()
    properties(tmp_path, "plugins_path=plugins")
    warnings = load_config({}, {}, tmp_path).warnings
    assert any(f"{jar} is not loaded" in one for one in warnings)
    assert any("torchserve_py.endpoints" in one for one in warnings)
