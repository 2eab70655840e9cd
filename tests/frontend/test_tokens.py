"""Token authorization: keys, their file, and what they protect (reference §8.13, §5.8)."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import aiohttp
import pytest

from tests.frontend.http_fakes import edge, talk
from ts_frontend.config import Address
from ts_frontend.errors import InvalidKey
from ts_frontend.http.tokens import KeyFileError, Kind, Tokens, fixed_keys

REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
REFRESH = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tokens(tmp_path: Path, clock: Clock) -> Iterator[Tokens]:
    tokens = Tokens(tmp_path / "key_file.json", 60.0, clock=clock)
    tokens.open()
    yield tokens
    tokens.close()


def key(tokens: Tokens, kind: str) -> str:
    """The key in the file, as a client reads it."""
    return str(json.loads(tokens.path.read_text())[kind]["key"])


def test_the_file_has_torchserves_shape_and_is_for_the_owner_only(tokens: Tokens) -> None:
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    data = json.loads(tokens.path.read_text())
    assert list(data) == ["management", "inference", "API"]
    assert list(data["inference"]) == ["key", "expiration time"]
    assert list(data["API"]) == ["key"]
    assert len({len(entry["key"]) for entry in data.values()}) == 1
    assert len({entry["key"] for entry in data.values()}) == 3
    assert len(data["API"]["key"]) == 8
    end = data["management"]["expiration time"]
    assert end == "2023-11-14T23:13:20.250000Z"
    assert datetime.fromisoformat(end).timestamp() == 1_700_003_600.25


def test_a_loose_umask_and_an_old_file_do_not_open_the_new_one(tmp_path: Path) -> None:
    path, victim = tmp_path / "key_file.json", tmp_path / "victim"
    victim.write_text("untouched")
    path.symlink_to(victim)
    before = os.umask(0)
    try:
        tokens = Tokens(path)
        tokens.open()
    finally:
        os.umask(before)
    assert victim.read_text() == "untouched"
    assert not path.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []
    tokens.close()
    assert not path.exists()
    tokens.close()


@pytest.mark.parametrize("kind", ["management", "inference"])
def test_the_right_key_passes_until_it_expires(tokens: Tokens, clock: Clock, kind: Kind) -> None:
    tokens.check(kind, f"Bearer {key(tokens, kind)}")
    tokens.check(kind, f"Bearer   {key(tokens, kind)}")
    clock.now += 3599
    tokens.check(kind, f"Bearer {key(tokens, kind)}")
    clock.now += 1
    with pytest.raises(InvalidKey, match=REFUSED):
        tokens.check(kind, f"Bearer {key(tokens, kind)}")


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer wrong", "bearer {}", "Basic {}", "{}", "Bearer {} x"],
)
def test_anything_else_is_refused(tokens: Tokens, header: str) -> None:
    with pytest.raises(InvalidKey, match=REFUSED):
        tokens.check("inference", header.format(key(tokens, "inference")))


def test_one_key_does_not_open_the_other_api(tokens: Tokens) -> None:
    with pytest.raises(InvalidKey):
        tokens.check("inference", f"Bearer {key(tokens, 'management')}")
    with pytest.raises(InvalidKey):
        tokens.check("management", "Bearer \udce9")


def test_nothing_passes_before_the_keys_are_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidKey):
        Tokens(tmp_path / "k").check("inference", "Bearer None")


def test_the_api_key_renews_one_key_and_never_expires(tokens: Tokens, clock: Clock) -> None:
    api = f"Bearer {key(tokens, 'API')}"
    management, inference = key(tokens, "management"), key(tokens, "inference")
    clock.now += 10**9
    tokens.refresh("inference", api)
    assert key(tokens, "management") == management
    assert key(tokens, "inference") != inference
    tokens.check("inference", f"Bearer {key(tokens, 'inference')}")
    with pytest.raises(InvalidKey):
        tokens.check("inference", f"Bearer {inference}")


@pytest.mark.parametrize("kind", [None, "", "API", "Management"])
def test_only_two_keys_can_be_renewed(tokens: Tokens, kind: str | None) -> None:
    with pytest.raises(InvalidKey, match=REFRESH):
        tokens.refresh(kind, f"Bearer {key(tokens, 'API')}")


def test_renewing_needs_the_api_key(tokens: Tokens) -> None:
    with pytest.raises(InvalidKey, match=REFRESH):
        tokens.refresh("inference", f"Bearer {key(tokens, 'management')}")


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"Cannot write the key file .*--disable-token-auth"):
        Tokens(tmp_path / "missing" / "key_file.json").open()


def test_a_renewal_that_cannot_be_written_leaves_the_old_key(tokens: Tokens) -> None:
    api, before = f"Bearer {key(tokens, 'API')}", key(tokens, "inference")
    tokens.path.unlink()
    tokens.path.mkdir()
    with pytest.raises(KeyFileError):
        tokens.refresh("inference", api)
    tokens.check("inference", f"Bearer {before}")
    tokens.path.rmdir()


def test_fixed_keys_do_not_expire_and_are_not_written(tmp_path: Path, clock: Clock) -> None:
    fixed = fixed_keys({"TS_INFERENCE_TOKEN": "open-sesame", "TS_API_TOKEN": "", "OTHER": "x"})
    assert fixed == {"inference": "open-sesame"}
    tokens = Tokens(tmp_path / "k", 1.0, fixed, clock)
    tokens.open()
    clock.now += 10**6
    tokens.check("inference", "Bearer open-sesame")
    assert list(json.loads(tokens.path.read_text())) == ["management", "API"]
    tokens.close()


def test_with_all_keys_fixed_there_is_no_file(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "k", 1.0, {"management": "a", "inference": "b", "API": "c"})
    tokens.open()
    assert not tokens.path.exists()


INFERENCE = ["/predictions/m", "/models/m/invoke", "/m/predict", "/v1/models/m:predict", "/x"]
MANAGEMENT = ["/models", "/models/m", "/models/m/1", "/v1/models/m", "/x"]
OPEN = ["/ping", "/livez", "/readyz", "/api-description", "/metrics"]


async def status(url: str, token: str | None, session: aiohttp.ClientSession) -> int:
    """The status of a GET with a token."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    async with session.get(url, headers=headers) as answer:
        return answer.status


async def test_what_needs_which_token(tokens: Tokens) -> None:
    keys = {kind: key(tokens, kind) for kind in ("inference", "management", "API")}
    async with edge(tokens=tokens) as e, aiohttp.ClientSession() as session:
        for listener, (kind, paths) in enumerate(
            (("inference", INFERENCE), ("management", MANAGEMENT))
        ):
            for path in paths:
                right = await status(e.url(path, listener), keys[kind], session)
                assert right == (404 if path == "/x" else 200), path
                for wrong in (None, *(keys[other] for other in keys if other != kind)):
                    assert await status(e.url(path, listener), wrong, session) == 400, path
        for path in OPEN[:-1]:
            assert await status(e.url(path), None, session) == 200
        assert await status(e.url("/metrics", 2), None, session) == 200
        assert await status(e.url("/", 0), None, session) == 405


async def test_management_stays_usable_on_a_shared_port(tokens: Tokens, tmp_path: Path) -> None:
    shared = Address("unix", "", 0, str(tmp_path / "s"))
    keys = {kind: key(tokens, kind) for kind in ("inference", "management", "API")}
    async with edge(tokens=tokens, inference_address=shared, management_address=shared):
        connector = aiohttp.UnixConnector(shared.path)
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            for path in INFERENCE[:-1]:
                assert await status(path, keys["inference"], session) == 200
                assert await status(path, keys["management"], session) == 400
            for path in MANAGEMENT[:-1]:
                assert await status(path, keys["management"], session) == 200
                assert await status(path, keys["inference"], session) == 400
            for path in OPEN:
                assert await status(path, None, session) == 200
            assert await status("/x", None, session) == 400
            assert await status("/token?type=inference", keys["API"], session) == 200


async def test_the_token_route_answers_a_bare_line_feed(tokens: Tokens) -> None:
    before, api = key(tokens, "inference"), key(tokens, "API")
    request = (
        "GET /token?type=inference HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Authorization: Bearer {api}\r\n\r\n"
    )
    async with edge(tokens=tokens) as e:
        answer = await talk(e.listeners[1].port, request.encode())
        assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n")
        assert answer.endswith(b"\r\ncontent-length: 1\r\nconnection: close\r\n\r\n\n")
        assert key(tokens, "inference") != before
        refused = await talk(e.listeners[1].port, request.replace(api, "no").encode())
    assert b'"type": "InvalidKeyException"' in refused
    assert REFRESH.encode() in refused


async def test_a_refused_request_is_not_run(tokens: Tokens) -> None:
    async with edge(tokens=tokens) as e:
        answer = await talk(e.port, b"GET /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert REFUSED.encode() in answer
        assert not e.inference.calls


def test_another_servers_key_file_is_left_alone(tmp_path: Path) -> None:
    """Two servers of one folder: the second's file replaced the first's."""
    first, second = Tokens(tmp_path / "key_file.json"), Tokens(tmp_path / "key_file.json")
    first.open()
    second.open()
    first.close()
    assert second.path.exists()
    second.close()
    assert not second.path.exists()
