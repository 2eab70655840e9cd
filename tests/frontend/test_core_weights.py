"""Who may let a model read pickles, which of them wins, and how its workers hear of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.core_rig import Site
from ts_frontend.config import ConfigError, load_config
from ts_frontend.core.weights import BOUND, FREE
from ts_frontend.errors import BadRequest
from ts_frontend.http.arguments import Arguments
from ts_frontend.http.management import registration
from ts_frontend.model_snapshot import as_json, model_snapshot


async def environment(
    tmp_path: Path,
    asked: bool | None = None,
    yaml: str | None = None,
    config: bool = True,
    environ: dict[str, str] | None = None,
) -> dict[str, str]:
    """What a worker of a model gets of torch's two variables."""
    async with Site(tmp_path, environ=environ, weights_only=config) as site:
        await site.register(site.model(yaml=yaml), 1, weights_only=asked)
        env = site.worker.spec.env
        return {name: env[name] for name in (FREE, BOUND) if name in env}


@pytest.mark.parametrize(
    ("asked", "yaml", "config", "free"),
    [
        (None, None, True, False),
        (None, None, False, True),
        (None, "weightsOnly: true\n", False, False),
        (None, "weightsOnly: false\n", True, True),
        (True, "weightsOnly: false\n", False, False),
        (False, "weightsOnly: true\n", True, True),
        (None, "weightsOnly: 'false'\n", True, False),
    ],
)
async def test_register_call_then_yaml_then_server(tmp_path, caplog, asked, yaml, config, free):
    assert await environment(tmp_path, asked, yaml, config) == ({FREE: "1"} if free else {})
    told = [one for one in caplog.records if "may load pickles" in one.getMessage()]
    assert len(told) == free
    if free:
        source = (
            "the register call"
            if asked is not None
            else "its yaml"
            if yaml
            else "the server's configuration"
        )
        assert source in told[0].getMessage()
        assert told[0].levelno == logging.WARNING


async def test_the_servers_own_variable_holds_until_somebody_decides(tmp_path, caplog):
    environ = {FREE: "1"}
    assert await environment(tmp_path / "a", environ=environ) == environ
    assert f"{FREE}=1 in the server's environment" in caplog.text
    assert await environment(tmp_path / "b", True, environ=environ) == {}
    environ = {BOUND: "1"}  # torch refuses both at once
    assert await environment(tmp_path / "c", False, environ=environ) == {FREE: "1"}
    assert await environment(tmp_path / "d", True, environ=environ) == environ


@pytest.mark.parametrize("value", ["", "no", "0", "fasle"])
def test_a_slip_of_the_pen_lifts_nothing(tmp_path, value):
    with pytest.raises(BadRequest, match=r"^Parameter weights_only must be true or false, not"):
        registration(Arguments({"url": "a.mar", "weights_only": value}))
    (tmp_path / "config.properties").write_text(f"weights_only={value}\nmodel_store=.\n")
    if value:
        with pytest.raises(ConfigError, match=r"weights_only=.*expected true or false"):
            load_config({"ts_config": "config.properties"}, {}, tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"), [("False", False), ("true", True), (False, False), (None, None)]
)
def test_the_register_parameter(value, expected):
    asked = {"url": "a.mar"} | ({} if value is None else {"weights_only": value})
    assert registration(Arguments(asked, strict=True)).weights_only is expected


async def test_a_snapshot_remembers_what_the_register_call_said(tmp_path):
    async with Site(tmp_path) as site:
        await site.register(site.model("free", yaml="weightsOnly: true\n"), weights_only=False)
        await site.register(site.model("own", yaml="weightsOnly: false\n"))
        saved = model_snapshot(as_json("s", 1, site.management.startup.saved()))
        for model in ("free", "own"):
            await site.management.unregister(model, None)
        assert {one.model: one.weights_only for one in saved.versions} == {
            "free": False,
            "own": None,
        }
        await site.management.startup.restore(saved)
        assert [one.settings.weights.only for one in site.catalog] == [False, False]
