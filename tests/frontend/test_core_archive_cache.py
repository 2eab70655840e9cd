"""Unpacked archives that are kept: found again, never mistaken, and removed in time."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from tests.core_rig import Site
from ts_archiver import CorruptArchive, Limits, TooLarge
from ts_frontend.config import Config
from ts_frontend.core import archive_cache, archive_entry
from ts_frontend.core.archive_cache import ArchiveCache, open_archive_cache
from ts_frontend.core.archive_entry import LINK_FROM
from ts_frontend.core.store import Store

LIMITS = Limits()
BIG = os.urandom(LINK_FROM)


class Server:
    """One server's view of a cache, and its models' folders."""

    def __init__(self, place: Path, keep: int = 1 << 40) -> None:
        self.cache = ArchiveCache(place / "cache", keep)
        self._place = place
        self.roots: list[Path] = []

    def take(self, source: Path, limits: Limits = LIMITS) -> Path:
        root = self._place / f"root-{id(self)}-{len(self.roots)}"
        self.roots.append(root)
        self.cache.take(source, root, limits)
        return root

    def close(self) -> None:
        for root in self.roots:
            self.cache.release(root)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[Server]]:
    made = [Server(tmp_path), Server(tmp_path)]
    yield made
    for server in made:
        server.close()


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of archives that are read as a whole, in their order."""
    names: list[str] = []
    real = archive_cache.extract_hashed

    def noted(source: Path, target: Path, *, limits: Limits) -> object:
        names.append(source.name)
        return real(source, target, limits=limits)

    monkeypatch.setattr(archive_cache, "extract_hashed", noted)
    return names


def mar(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {"handler_py": b"x = 1", **files}.items():
            archive.writestr(name, data)
    return path


def entries(cache: ArchiveCache) -> list[Path]:
    return [path for path in cache.folder.iterdir() if len(path.name) == 32]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_next_server_unpacks_nothing(
    tmp_path: Path, servers: list[Server], unpacked: list[str]
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG, "a/b/deep.txt": b"deep", "empty/": b""})
    first = servers[0].take(path)
    servers[0].close()
    second = servers[1].take(path)
    assert unpacked == ["m.mar"]
    assert contents(first) == contents(second)
    assert contents(second)["weights.pt"] == BIG
    assert (second / "empty").is_dir()
    modes = {path.stat().st_mode & 0o777 for path in second.rglob("*") if path.is_file()}
    assert modes == {0o600}


def test_what_another_user_has_put_there_is_no_model(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a temporary folder that all may write to, anybody may make the cache's folder first."""
    path = mar(tmp_path / "m.mar")
    servers[0].take(path)
    if os.getuid() == 0:
        os.chown(servers[0].cache.folder, 1, -1)
    else:
        monkeypatch.setattr("os.getuid", lambda: 12345)
    with pytest.raises(PermissionError, match="it belongs to another user"):
        servers[1].take(path)
    assert not servers[1].roots[0].exists()


def test_large_files_are_linked_and_small_ones_copied(
    tmp_path: Path, servers: list[Server]
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG, "small.pt": BIG[:-1]})
    roots = [server.take(path) for server in servers]
    assert os.path.samefile(roots[0] / "weights.pt", roots[1] / "weights.pt")
    assert not os.path.samefile(roots[0] / "small.pt", roots[1] / "small.pt")
    assert not (roots[0] / "weights.pt").is_symlink()  # workers map no links


def test_files_are_copied_where_links_can_not_be_made(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    root = servers[0].take(mar(tmp_path / "m.mar", **{"weights.pt": BIG}))
    assert (root / "weights.pt").read_bytes() == BIG


def test_the_same_content_in_two_archives_is_one_entry(
    tmp_path: Path, servers: list[Server], unpacked: list[str]
) -> None:
    one, two = (mar(tmp_path / name, **{"weights.pt": BIG}) for name in ("one.mar", "two.mar"))
    for source in (one, two, one, two):
        servers[0].take(source)
    assert unpacked == ["one.mar", "two.mar"]
    assert len(entries(servers[0].cache)) == 1


def test_a_tar_is_kept_too(tmp_path: Path, servers: list[Server], unpacked: list[str]) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "weights.pt").write_bytes(BIG)
    subprocess.run(["tar", "czf", "m.tar.gz", "m"], cwd=tmp_path, check=True)
    for server in servers:
        assert contents(server.take(tmp_path / "m.tar.gz"))["weights.pt"] == BIG
    assert unpacked == ["m.tar.gz"]


def test_a_changed_archive_is_another(
    tmp_path: Path, servers: list[Server], unpacked: list[str]
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": b"one"})
    before = path.stat()
    servers[0].take(path)
    mar(path, **{"weights.pt": b"two"})  # in place, with the same size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert contents(servers[1].take(path))["weights.pt"] == b"two"
    assert len(unpacked) == 2


def test_an_archive_that_changes_while_it_is_unpacked_is_not_remembered(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": b"one"})
    real = archive_cache.extract_hashed

    def replaced(source: Path, target: Path, *, limits: Limits) -> object:
        found = real(source, target, limits=limits)
        mar(path, **{"weights.pt": b"two"})
        return found

    with monkeypatch.context() as patch:
        patch.setattr(archive_cache, "extract_hashed", replaced)
        assert contents(servers[0].take(path))["weights.pt"] == b"one"
    assert contents(servers[1].take(path))["weights.pt"] == b"two"


def test_smaller_limits_count_for_what_is_kept(tmp_path: Path, servers: list[Server]) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    servers[0].take(path)
    with pytest.raises(TooLarge):
        servers[1].take(path, Limits(max_total_bytes=1000))


def _rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def _cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10)


@pytest.mark.parametrize("harm", [_rewrite, _cut, os.unlink])
@pytest.mark.parametrize(
    "name", ["files/weights.pt", "files/handler_py", "record.json", "files.json"]
)
def test_what_was_harmed_is_made_anew(
    tmp_path: Path,
    servers: list[Server],
    unpacked: list[str],
    caplog: pytest.LogCaptureFixture,
    harm: object,
    name: str,
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    servers[0].take(path)
    servers[0].close()
    harm(entries(servers[0].cache)[0] / name)  # type: ignore[operator]
    for _ in range(2):
        assert contents(servers[1].take(path)) == {"weights.pt": BIG, "handler_py": b"x = 1"}
    assert len(unpacked) == 2
    assert "is made anew" in caplog.text


def test_a_handler_that_writes_into_its_folder_spoils_no_later_start(
    tmp_path: Path, servers: list[Server]
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    root = servers[0].take(path)
    (root / "handler_py").write_bytes(b"x = 2")
    (root / "new.txt").write_bytes(b"new")
    with (root / "weights.pt").open("r+b") as file:  # a link
        file.write(b"quantized")
    assert contents(servers[1].take(path)) == {"weights.pt": BIG, "handler_py": b"x = 1"}


def test_after_the_machine_was_started_anew_hashes_are_looked_at_once(
    tmp_path: Path,
    servers: list[Server],
    unpacked: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    servers[0].take(path)
    monkeypatch.setattr(archive_entry, "_boot", lambda: "another")
    hashed: list[str] = []
    real = archive_entry._hash

    def noted(path: Path) -> str:
        hashed.append(path.name)
        return real(path)

    monkeypatch.setattr(archive_entry, "_hash", noted)
    servers[1].take(path)
    servers[1].take(path)
    assert sorted(hashed) == ["handler_py", "weights.pt"]
    assert unpacked == ["m.mar"]


def test_what_had_not_reached_the_disk_is_made_anew(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    servers[0].take(path)
    kept = entries(servers[0].cache)[0] / "files" / "weights.pt"
    before = kept.stat()
    kept.write_bytes(bytes(len(BIG)))
    os.utime(kept, ns=(before.st_atime_ns, before.st_mtime_ns))
    monkeypatch.setattr(archive_entry, "_boot", lambda: "another")
    assert contents(servers[1].take(path))["weights.pt"] == BIG


def test_a_broken_archive_leaves_nothing(tmp_path: Path, servers: list[Server]) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArchive):
        servers[0].take(path)
    assert not servers[0].roots[0].exists()
    assert list(servers[0].cache.folder.iterdir()) == []


def test_the_least_recently_used_go_unless_a_server_uses_them(tmp_path: Path) -> None:
    server, other = Server(tmp_path, keep=2 * len(BIG) + 1000), Server(tmp_path)
    paths = [mar(tmp_path / f"{n}.mar", **{"w.pt": BIG, "n": bytes([n])}) for n in range(4)]
    used = other.take(paths[0])
    for number, path in enumerate(paths[1:], start=1):
        root = server.take(path)
        for entry in entries(server.cache):
            if (entry / "files" / "n").read_bytes() == bytes([number]):
                os.utime(entry / "record.json", (number, number))
        server.cache.release(root)
    server.cache.prune()
    kept = {(entry / "files" / "n").read_bytes()[0] for entry in entries(server.cache)}
    assert kept == {0, 3}  # 0 is used, and the oldest
    other.close()
    other.cache.prune(0)
    assert entries(server.cache) == []
    assert (used / "w.pt").read_bytes() == BIG  # a model's own folder is its own


def test_a_server_that_was_killed_half_way_leaves_nothing_for_long(tmp_path: Path) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    code = (
        "import pathlib, signal, sys, os\n"
        "from ts_archiver import Limits\n"
        "from ts_frontend.core import archive_cache\n"
        "archive_cache.record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache = archive_cache.ArchiveCache(pathlib.Path(sys.argv[1]), 1 << 40)\n"
        "cache.take(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]), Limits())\n"
    )
    cache = ArchiveCache(tmp_path / "cache", 1 << 40)
    words = [sys.executable, "-c", code, str(cache.folder), str(path), str(tmp_path / "root")]
    assert subprocess.run(words).returncode == -signal.SIGKILL
    assert [one.suffix for one in cache.folder.iterdir()] == [".new"]
    cache.clear_stale()
    assert list(cache.folder.iterdir()) == []


def test_what_another_server_unpacks_is_not_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: list[Server]
) -> None:
    real = archive_cache.record

    def meanwhile(entry: Path, hashes: dict[str, str]) -> None:
        servers[1].cache.clear_stale()
        real(entry, hashes)

    monkeypatch.setattr(archive_cache, "record", meanwhile)
    root = servers[0].take(mar(tmp_path / "m.mar", **{"weights.pt": BIG}))
    assert (root / "weights.pt").read_bytes() == BIG


def test_an_entry_that_is_being_removed_is_made_anew(
    tmp_path: Path, servers: list[Server], unpacked: list[str]
) -> None:
    path = mar(tmp_path / "m.mar", **{"weights.pt": BIG})
    servers[0].take(path)
    servers[0].close()
    entry = entries(servers[0].cache)[0]
    with (entry / "lock").open("r+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OSError, match="by others"):
            servers[1].take(path)
    assert contents(servers[1].take(path))["weights.pt"] == BIG
    assert unpacked == ["m.mar"] * 2


async def test_a_cache_that_can_not_be_used_costs_nothing_but_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "taken").write_text("a file")
    async with Site(tmp_path, archive_cache=tmp_path / "taken") as site:
        mar(site.folder / "m.mar", **{"weights.pt": BIG})
        store = Store(site.config)
        archive = await store.fetch("m.mar")
        assert (archive.model_dir / "weights.pt").read_bytes() == BIG
        await store.discard(archive)
    assert "as archive_cache can't be used" in caplog.text


async def test_a_store_gives_back_what_it_takes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with Site(tmp_path, archive_cache_max=len(BIG)) as site:
        mar(site.folder / "m.mar", **{"weights.pt": BIG})
        store = Store(site.config)
        archives = await asyncio.gather(*(store.fetch("m.mar") for _ in range(3)))
        cache = open_archive_cache(site.config)
        assert cache is not None
        assert len(entries(cache)) == 1
        for archive in archives:
            assert (archive.model_dir / "weights.pt").read_bytes() == BIG
            await store.discard(archive)
        assert entries(cache) == []  # larger than what is kept, by the small file
        assert site.unpacked == 0


def test_where_it_is(tmp_path: Path) -> None:
    default = open_archive_cache(Config(temp_dir=tmp_path))
    assert default is not None
    assert default.folder == tmp_path / f"torchserve-py-archives-{os.getuid()}"
    elsewhere = open_archive_cache(Config(archive_cache=tmp_path / "x"))
    assert elsewhere is not None
    assert elsewhere.folder == tmp_path / "x"
    assert open_archive_cache(Config(archive_cache_max=0)) is None


def test_an_entry_is_known_by_a_few_files_only(
    tmp_path: Path, servers: list[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_cache, "_MAX_SOURCES", 2)
    for number in range(4):
        servers[0].take(mar(tmp_path / f"{number}.mar", **{"weights.pt": BIG}))
    entry = entries(servers[0].cache)[0]
    assert len(list((entry / "sources").iterdir())) == 2
    assert json.loads((entry / "record.json").read_text())["bytes"] == len(BIG) + 5
