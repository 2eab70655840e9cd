"""Tokens, row by row (reference §5.8, §8.13)."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.compat.reference.wire import error
from tests.e2e.conftest import Answer, Server, until

pytestmark = pytest.mark.e2e

TAIL = "Token either incorrect, expired, or not provided correctly"
REFUSED = error(400, "InvalidKeyException", f"Token Authorization failed. {TAIL}")
REFRESH_REFUSED = error(400, "InvalidKeyException", f"Token Authentication failed. {TAIL}")


@pytest.fixture
def guarded(_operated: Server) -> Iterator[Server]:
    """The server for operators; a test may renew its keys."""
    yield _operated
    _operated.keys = {kind: entry["key"] for kind, entry in keys(_operated).items()}


def keys(server: Server) -> dict[str, dict[str, str]]:
    """The key file."""
    return dict(json.loads((server.folder / "key_file.json").read_text()))


def ask(server: Server, path: str, header: str, *, port: int = 1, method: str = "GET") -> Answer:
    return server.ask(port, method, path, Authorization=header)


# §8.13


def test_key_file(guarded: Server) -> None:
    """[8.13 key_file.json] in the working directory: shape, order, mode, times."""
    path = guarded.folder / "key_file.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    entries = keys(guarded)
    assert list(entries) == ["management", "inference", "API"]
    for kind, entry in entries.items():
        expected = ["key"] if kind == "API" else ["key", "expiration time"]
        assert list(entry) == expected
        assert re.fullmatch(r"[A-Za-z0-9_-]{8}", entry["key"])
    assert len({entry["key"] for entry in entries.values()}) == 3
    end = entries["management"]["expiration time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", end)
    minutes = (datetime.fromisoformat(end) - datetime.now(UTC)).total_seconds() / 60
    assert 55 < minutes <= 60  # [8.13 default 60]


@pytest.mark.parametrize(
    "header",
    [
        pytest.param("", id="8.13 missing"),
        pytest.param("Bearer", id="8.13 without a key"),
        pytest.param("Bearer wrong", id="8.13 wrong"),
        pytest.param("bearer {management}", id="8.13 case-sensitive scheme"),
        pytest.param("Basic {management}", id="8.13 another scheme"),
        pytest.param("{management}", id="8.13 no scheme"),
        pytest.param("Bearer {management} more", id="8.13 must fully match"),
        pytest.param("Bearer{management}", id="8.13 no white space"),
        pytest.param("Bearer {inference}", id="8.13 key of the other API"),
        pytest.param("Bearer {API}", id="8.13 API key"),
    ],
)
@pytest.mark.parametrize("path", ["/models", "/models/none", "/v1/models/none", "/nowhere"])
def test_refused(guarded: Server, header: str, path: str) -> None:
    """[8.13 400, not 401/403] and before the path is looked at."""
    answer = ask(guarded, path, header.format(**guarded.keys))
    assert (answer.status, answer.body) == (400, REFUSED)


@pytest.mark.parametrize(
    ("header", "code"),
    [
        pytest.param("Bearer {inference}", 404, id="8.13 inference key"),
        pytest.param("Bearer \t {inference}", 404, id="8.13 any white space"),
        pytest.param("Bearer {management}", 400, id="8.13 management key for inference"),
        pytest.param("", 400, id="8.13 missing for inference"),
    ],
)
def test_inference(guarded: Server, header: str, code: int) -> None:
    header = header.format(**guarded.keys)
    answer = ask(guarded, "/predictions/none", header, port=0, method="POST")
    assert answer.status == code
    if code == 400:
        assert answer.body == REFUSED


@pytest.mark.parametrize(
    ("port", "method", "path", "code"),
    [
        pytest.param(0, "OPTIONS", "/", 200, id="8.13 description of inference"),
        pytest.param(1, "OPTIONS", "/", 200, id="8.13 description of management"),
        pytest.param(0, "GET", "/api-description", 200, id="8.13 api-description"),
        pytest.param(1, "GET", "/api-description", 200, id="8.13 api-description, management"),
        pytest.param(0, "GET", "/", 405, id="8.13 405 on /"),
        pytest.param(1, "GET", "/", 405, id="8.13 405 on / of management"),
        pytest.param(2, "GET", "/metrics", 200, id="8.13 metrics listener"),
        pytest.param(0, "GET", "/ping", 200, id="8.13 ping, mended"),
        pytest.param(0, "GET", "/nowhere", 400, id="8.13 unknown path"),
    ],
)
def test_open_to_all(guarded: Server, port: int, method: str, path: str, code: int) -> None:
    """[8.13 Protected] and what is not."""
    assert ask(guarded, path, "", port=port, method=method).status == code


def test_banner(guarded: Server) -> None:
    """[8.13 actual is a banner]"""
    log = guarded.log("ts_log")
    assert log.count("######") == 2
    assert "TorchServe now enforces token authorization by default." in log
    assert f"Key file located at {guarded.folder / 'key_file.json'}" in log


# §5.8


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("management", id="5.8 management"),
        pytest.param("inference", id="5.8 inference"),
    ],
)
def test_refresh(guarded: Server, method: str, kind: str) -> None:
    """[5.8 success, any method] The body is a line feed, the new key is in the file."""
    before = keys(guarded)
    header = f"Bearer {guarded.keys['API']}"
    answer = ask(guarded, f"/token?type={kind}", header, method=method)
    assert (answer.status, answer.body) == (200, b"\n")
    assert answer.headers["content-type"] == "application/json"
    after = keys(guarded)
    assert [name for name in after if after[name] != before[name]] == [kind]
    for entries, code in ((before, 400), (after, 404)):
        path, port = ("/models/none", 1) if kind == "management" else ("/predictions/none", 0)
        assert ask(guarded, path, f"Bearer {entries[kind]['key']}", port=port).status == code


@pytest.mark.parametrize(
    ("query", "header"),
    [
        pytest.param("?type=inference", "", id="5.8 missing API key"),
        pytest.param("?type=inference", "Bearer wrong", id="5.8 wrong API key"),
        pytest.param("?type=inference", "Bearer {inference}", id="5.8 inference key"),
        pytest.param("?type=management", "Bearer {management}", id="5.8 management key"),
        pytest.param("", "Bearer {API}", id="5.8 missing type"),
        pytest.param("?type=", "Bearer {API}", id="5.8 empty type"),
        pytest.param("?type=API", "Bearer {API}", id="5.8 type API"),
        pytest.param("?type=Inference", "Bearer {API}", id="5.8 type in another case"),
    ],
)
def test_refresh_refused(guarded: Server, query: str, header: str) -> None:
    """[5.8 any failure] "Authentication", unlike elsewhere; no key changes."""
    before = keys(guarded)
    answer = ask(guarded, f"/token{query}", header.format(**guarded.keys))
    assert (answer.status, answer.body) == (400, REFRESH_REFUSED)
    assert keys(guarded) == before


def test_refresh_is_on_management_only(guarded: Server) -> None:
    """[5.8 management listener]"""
    header = f"Bearer {guarded.keys['inference']}"
    assert ask(guarded, "/token?type=inference", header, port=0).status == 404


@pytest.mark.parametrize("path", ["/models/none?from=/token", "/models/token", "/models?x=/token"])
def test_only_the_token_route(guarded: Server, path: str) -> None:
    """[5.8 substring test] mended: other paths with the word in them are what they are."""
    assert ask(guarded, path, f"Bearer {guarded.keys['management']}").status in (200, 404)
    assert ask(guarded, path, f"Bearer {guarded.keys['API']}").body == REFUSED


# Servers with other settings


def test_disabled(plain: Server) -> None:
    """[5.8 with auth disabled `/token` is 404] and there is no key file."""
    assert plain.ask(1, "GET", "/token?type=inference").status == 404
    assert not (plain.folder / "key_file.json").exists()


def test_expired(tmp_path_factory: pytest.TempPathFactory) -> None:
    """[8.13 token_expiration_min, fractions] A key ends, the API key does not."""
    server = Server(tmp_path_factory.mktemp("expiring"))
    server.prepare(token_expiration_min=0.005)  # 0.3 s
    server.start()
    try:
        until(lambda: server.manage("GET", "/models").body == REFUSED)
        assert ask(server, "/token?type=management", f"Bearer {server.keys['API']}").status == 200
        renewed = keys(server)["management"]
        assert renewed["key"] != server.keys["management"]
        # [8.13 keys are not renewed automatically]
        end = datetime.fromisoformat(renewed["expiration time"])
        until(lambda: datetime.now(UTC) > end)
        assert ask(server, "/models", f"Bearer {renewed['key']}").body == REFUSED
        assert keys(server)["management"] == renewed
    finally:
        assert server.stop() == 0
    assert not (server.folder / "key_file.json").exists()  # mended: TorchServe left it
