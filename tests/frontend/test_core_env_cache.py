"""The folder of shared environments: who builds, who waits, what is kept and what goes."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.core_rig import until
from ts_frontend.core.env_cache import EnvCache, Record, default_folder

MakeCache = Callable[..., EnvCache]

ONE, TWO, THREE = ("1" * 32, "2" * 32, "3" * 32)


class Builds:
    """A build that is counted, and goes on when told."""

    def __init__(self, *, waits: bool = False) -> None:
        self.count = 0
        self.go = asyncio.Event()
        if not waits:
            self.go.set()

    async def __call__(self, folder: Path) -> Record:
        self.count += 1
        (folder / "half").touch()
        await self.go.wait()
        return {"folder": str(folder)}


@pytest.fixture
def make_cache(tmp_path: Path) -> Iterator[MakeCache]:
    """One server's view of one folder; how many it keeps may be given."""
    made: list[EnvCache] = []

    def make(keep: int = 5) -> EnvCache:
        made.append(EnvCache(tmp_path / "envs", keep))
        return made[-1]

    yield make
    for cache in made:
        for holder in list(cache._held):
            cache.release(holder)


def kept(cache: EnvCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()}


async def test_an_environment_is_built_once_and_found_by_the_next_server(
    tmp_path: Path, make_cache: MakeCache
) -> None:
    builds = Builds()
    for server in range(2):
        cache = make_cache()
        for holder in ("a", "b"):
            record = await cache.take(ONE, tmp_path / holder, builds)
            assert record == {"folder": str(tmp_path / "envs" / ONE)}
        assert builds.count == 1, server
    assert oct((tmp_path / "envs").stat().st_mode & 0o777) == "0o700"


async def test_those_who_come_together_build_once(tmp_path: Path, make_cache: MakeCache) -> None:
    builds = Builds(waits=True)
    servers = [make_cache() for _ in range(2)]
    takes = [
        asyncio.create_task(server.take(ONE, tmp_path / str(number), builds))
        for server in servers
        for number in range(3)
    ]
    await until(lambda: builds.count == 1)
    builds.go.set()
    assert len({str(record) for record in await asyncio.gather(*takes)}) == 1
    assert builds.count == 1


async def test_a_failed_or_cancelled_build_leaves_nothing(
    tmp_path: Path, make_cache: MakeCache
) -> None:
    cache = make_cache()

    async def fail(folder: Path) -> Record:
        (folder / "half").touch()
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await cache.take(ONE, tmp_path, fail)
    assert kept(cache) == set()
    builds = Builds(waits=True)
    task = asyncio.create_task(cache.take(ONE, tmp_path, builds))
    await until(lambda: builds.count == 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert kept(cache) == set()
    await cache.take(ONE, tmp_path, Builds())


async def test_a_waiting_server_builds_when_the_first_one_fails(
    tmp_path: Path, make_cache: MakeCache
) -> None:
    first, second = (make_cache() for _ in range(2))
    blocked, builds = Builds(waits=True), Builds()
    one = asyncio.create_task(first.take(ONE, tmp_path / "1", blocked))
    await until(lambda: blocked.count == 1)
    two = asyncio.create_task(second.take(ONE, tmp_path / "2", builds))
    await asyncio.sleep(0)
    one.cancel()
    await two
    assert builds.count == 1


async def test_what_a_killed_server_left_is_built_anew_or_removed(
    tmp_path: Path, make_cache: MakeCache
) -> None:
    cache = make_cache()
    for key in (ONE, TWO):
        (cache.folder / key).mkdir(parents=True)
        (cache.folder / key / "lock").touch()
    (cache.folder / f"{THREE}-{ONE}.removed").mkdir()
    (cache.folder / "notes").mkdir()  # somebody else's
    builds = Builds()
    await cache.take(ONE, tmp_path, builds)
    assert builds.count == 1
    assert kept(cache) == {ONE, "notes"}


async def test_an_environment_that_was_moved_is_built_anew(
    tmp_path: Path, make_cache: MakeCache
) -> None:
    cache = make_cache()
    await cache.take(TWO, tmp_path / "2", Builds())
    cache.release(tmp_path / "2")
    (cache.folder / TWO).rename(cache.folder / ONE)
    builds = Builds()
    assert (await cache.take(ONE, tmp_path, builds))["folder"] == str(cache.folder / ONE)
    assert builds.count == 1


async def test_the_least_recently_used_go_unless_a_server_uses_them(
    tmp_path: Path, make_cache: MakeCache, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    other = make_cache(9)
    cache = make_cache(1)
    await other.take(ONE, tmp_path / "other", Builds())
    os.utime(other.folder / ONE / "environment.json", (1, 1))
    await cache.take(TWO, tmp_path / "a", Builds())
    assert kept(cache) == {ONE, TWO}
    assert cache.release(tmp_path / "a")
    assert not cache.release(tmp_path / "a")
    await cache.take(THREE, tmp_path / "b", Builds())
    assert kept(cache) == {ONE, THREE}
    assert f"Removing the environment {cache.folder / TWO}" in caplog.text
    other.release(tmp_path / "other")
    cache.prune()
    assert kept(cache) == {THREE}


async def test_a_cache_in_a_read_only_image_is_used(
    tmp_path: Path, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache()
    await cache.take(ONE, tmp_path, Builds())
    cache.release(tmp_path)
    real = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(30, "Read-only file system", str(path))
        return real(path, flags, mode)

    monkeypatch.setattr("os.open", read_only)
    builds = Builds()
    await cache.take(ONE, tmp_path, builds)
    assert builds.count == 0
    with pytest.raises(OSError, match="Read-only file system"):
        await cache.take(TWO, tmp_path, builds)


async def test_folders_of_other_users_and_places_without_locks_are_not_used(
    tmp_path: Path, make_cache: MakeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache()
    cache.folder.mkdir()
    with monkeypatch.context() as patch:
        if os.getuid() == 0:
            os.chown(cache.folder, 1, -1)
        else:
            patch.setattr("os.getuid", lambda: 12345)
        with pytest.raises(PermissionError, match="it belongs to another user"):
            await cache.take(ONE, tmp_path, Builds())
    os.chown(cache.folder, os.getuid(), -1)

    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="Operation not supported"):
        await cache.take(ONE, tmp_path, Builds())


def test_where_environments_are_by_default(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    assert default_folder(home, Path("/t")) == tmp_path / ".cache" / "torchserve-py" / "envs"
    with_cache = {**home, "XDG_CACHE_HOME": "/c"}
    assert default_folder(with_cache, Path("/t")) == Path("/c/torchserve-py/envs")
    mine = Path(f"/t/torchserve-py-envs-{os.getuid()}")
    for nowhere in ({}, {"HOME": "/none"}, {"HOME": "", "XDG_CACHE_HOME": "relative"}):
        assert default_folder(nowhere, Path("/t")) == mine
