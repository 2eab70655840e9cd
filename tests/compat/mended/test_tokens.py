"""Mended on purpose: who needs which token, and where keys and secrets lie."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path

import aiohttp
import pytest

from tests.core_rig import Site
from tests.frontend.http_fakes import edge
from ts_frontend.config import Address, Config
from ts_frontend.http.tokens import Tokens, mounted_keys
from ts_frontend.server import _running


def key(tokens: Tokens, kind: str) -> str:
    """A key as a client reads it."""
    return str(json.loads(tokens.path.read_text())[kind]["key"])


async def ask(
    session: aiohttp.ClientSession, path: str, token: str | None = None, method: str = "GET"
) -> tuple[int, str]:
    """Status and text of a request."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with session.request(method, path, headers=headers) as answer:
        return answer.status, await answer.text()


async def test_probes_need_no_token(tokens: Tokens) -> None:
    """TorchServe wanted the inference token for /ping, which no load balancer can send, and had
    neither /livez nor /readyz."""
    async with edge(tokens=tokens) as e, aiohttp.ClientSession() as session:
        for path in ("/ping", "/livez", "/readyz"):
            assert (await ask(session, e.url(path)))[0] == 200
        e.management.lacks = ["Model m version 1.0: 0 of 1 workers have loaded."]
        status, text = await ask(session, e.url("/readyz"))
        assert status == 503
        assert json.loads(text)["missing"] == e.management.lacks


async def test_management_works_on_a_shared_port_with_tokens(
    tokens: Tokens, tmp_path: Path
) -> None:
    """On one port TorchServe wanted both tokens in one header, and its inference API took the
    route /models/{m}/{v} for itself."""
    shared = Address("unix", "", 0, str(tmp_path / "s"))
    async with edge(tokens=tokens, inference_address=shared, management_address=shared):
        connector = aiohttp.UnixConnector(shared.path or "")
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            for path in ("/models", "/models/m", "/models/m/2.0"):
                assert (await ask(session, path, key(tokens, "management")))[0] == 200
                assert (await ask(session, path, key(tokens, "inference")))[0] == 400
            for path in ("/predictions/m", "/models/m/invoke"):
                assert (await ask(session, path, key(tokens, "inference")))[0] == 200
                assert (await ask(session, path, key(tokens, "management")))[0] == 400


async def test_the_log_has_no_secrets_of_urls(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """TorchServe logged each URL as it came."""
    url = "https://user:s3cr3t@host.invalid/m.mar?X-Amz-Signature=s3cr3t"
    await site.management.startup.load(url)
    assert "Failed to load model: https://host.invalid/m.mar, " in caplog.text
    assert "s3cr3t" not in caplog.text


async def test_only_the_token_route_is_the_token_route(tokens: Tokens) -> None:
    """TorchServe took every management request with "/token" anywhere in it for the token route."""
    async with edge(tokens=tokens) as e, aiohttp.ClientSession() as session:
        path = e.url("/models/m?from=/token", 1)
        assert (await ask(session, path, key(tokens, "management")))[0] == 200
        assert (await ask(session, path, key(tokens, "API")))[0] == 400


async def test_the_key_file_is_the_owners_and_goes_with_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe left its key file behind; only --stop, in the same folder, removed it. Here the
    whole server starts, without models."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    somewhere = Address("unix", "", 0, str(tmp_path / "s"))
    config = Config(
        model_store=tmp_path / "store",
        temp_dir=tmp_path,
        log_location=tmp_path / "logs",
        metrics_location=tmp_path / "logs",
        inference_address=somewhere,
        management_address=somewhere,
        enable_metrics_api=False,
        disable_system_metrics=True,
    )
    path = tmp_path / "key_file.json"
    async with _running(config):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(json.loads(path.read_text())) == ["management", "inference", "API"]
    assert not path.exists()
    monkeypatch.setenv("TS_INFERENCE_TOKEN", "open-sesame")
    async with _running(config):
        assert list(json.loads(path.read_text())) == ["management", "API"]
        connector = aiohttp.UnixConnector(somewhere.path or "")
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            assert (await ask(session, "/predictions/m"))[0] == 400
            assert (await ask(session, "/predictions/m", "open-sesame"))[0] == 404


def test_a_key_may_come_from_a_mounted_file(tmp_path: Path) -> None:
    """In TorchServe all keys are the server's own and random."""
    path = tmp_path / "token"
    path.write_text("open-sesame\n")
    now = time.time()
    mounted = mounted_keys({"TS_INFERENCE_TOKEN_FILE": str(path)})
    tokens = Tokens(tmp_path / "key_file.json", clock=lambda: now, mounted=mounted)
    tokens.open()
    tokens.check("inference", "Bearer open-sesame")
    (tmp_path / "other").write_text("rotated\n")
    os.replace(tmp_path / "other", path)
    now += 1
    tokens.check("inference", "Bearer rotated")
    tokens.close()
