"""Downloads that are slow, never begin or are given up: they hold up nobody and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.frontend.test_core_store import Files, a_store, folder, leftovers, mar, names, web
from ts_frontend.core import download, part_file
from ts_frontend.core.command import CommandFailed, run
from ts_frontend.core.download import Download
from ts_frontend.core.own_thread import in_own_thread
from ts_frontend.core.s3 import is_amazons
from ts_frontend.errors import DownloadFailed, Internal

__all__ = ["folder", "web"]  # fixtures

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


class Dripper:
    """A server that says ``head`` and then, with ``drips``, a byte every few milliseconds."""

    def __init__(self, head: bytes, drips: bool) -> None:
        self.port = 0
        self.met = asyncio.Event()
        self.left = asyncio.Event()
        self._head = head
        self._drips = drips

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)  # of the request, or of TLS
        writer.write(self._head)
        self.met.set()
        gone = asyncio.create_task(self._gone(reader))
        with contextlib.suppress(ConnectionError):
            while not gone.done():
                if self._drips:
                    writer.write(b"x")
                await asyncio.wait([gone], timeout=0.005)
        self.left.set()
        writer.close()

    async def _gone(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()


@asynccontextmanager
async def dripping(head: bytes = HEAD, *, drips: bool = True) -> AsyncIterator[Dripper]:
    dripper = Dripper(head, drips)
    server = await asyncio.start_server(dripper.answer, "127.0.0.1", 0)
    dripper.port = server.sockets[0].getsockname()[1]
    async with server:
        yield dripper


async def ended(task: asyncio.Task[object]) -> None:
    """Cancel and wait; long before any timeout of a socket."""
    begun = time.monotonic()
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    assert time.monotonic() - begun < download.LEAVE_SECONDS


@pytest.mark.parametrize(
    ("scheme", "head", "drips"),
    [
        ("http", HEAD, True),
        ("http", HEAD, False),
        ("http", b"HTTP/1.1 200 OK\r\nX: ", True),
        ("http", b"", False),
        ("https", b"", False),  # the handshake
    ],
)
async def test_a_download_that_is_given_up_ends_at_once(
    folder: Path, scheme: str, head: bytes, drips: bool
) -> None:
    async with dripping(head, drips=drips) as server:
        url = f"{scheme}://127.0.0.1:{server.port}/drip.mar"
        task = asyncio.create_task(a_store(folder).fetch(url))
        await server.met.wait()
        await ended(task)
        # The thread has ended as well: it holds no connection.
        await asyncio.wait_for(server.left.wait(), 10)
    assert names(folder) == []
    assert leftovers(folder) == []


async def test_a_download_that_brings_next_to_nothing_is_given_up(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "STALL_SECONDS", 0.1)
    async with dripping() as server:
        url = f"http://127.0.0.1:{server.port}/drip.mar"
        with pytest.raises(DownloadFailed) as caught:
            await a_store(folder).fetch(url)
    first, cause = caught.value.message.split("\n")
    assert first == f"Failed to download archive from: {url}"
    assert cause.startswith("it is too slow: ")
    assert cause.endswith(" bytes came in 0.1 seconds")
    assert names(folder) == []


async def test_who_gives_up_waits_for_no_thread_that_hears_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that looks up a host's name."""
    reached, go_on, over = threading.Event(), threading.Event(), threading.Event()
    original: Callable[..., None] = Download._run

    def deaf(self: Download) -> None:
        reached.set()
        go_on.wait(10)
        try:
            original(self)
        finally:
            over.set()

    monkeypatch.setattr(Download, "_run", deaf)
    monkeypatch.setattr(download, "LEAVE_SECONDS", 0.05)
    source = mar(folder.parent / "elsewhere")
    task = asyncio.create_task(a_store(folder).fetch(source.as_uri()))
    await asyncio.to_thread(reached.wait, 10)
    task.cancel()
    await asyncio.wait([task], timeout=10)
    assert task.cancelled()
    go_on.set()
    await asyncio.to_thread(over.wait, 10)
    assert names(folder) == []


async def test_what_came_just_before_the_cancelling_goes_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go_on = threading.Event(), threading.Event()
    original: Callable[..., None] = Download._publish
    removing: Callable[..., None] = Download._clean

    def publish(self: Download, part: Path) -> None:
        original(self, part)
        reached.set()
        go_on.wait(10)

    def clean(self: Download) -> None:
        removing(self)
        go_on.set()

    monkeypatch.setattr(Download, "_publish", publish)
    monkeypatch.setattr(Download, "_clean", clean)
    source = mar(folder.parent / "elsewhere")
    task = asyncio.create_task(a_store(folder).fetch(source.as_uri()))
    await asyncio.to_thread(reached.wait, 10)
    assert "m.mar" in names(folder)
    await ended(task)
    assert names(folder) == []


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
async def test_only_regular_files_are_copied(folder: Path, tmp_path: Path, kind: str) -> None:
    path = {"pipe": tmp_path / "pipe.mar", "device": Path("/dev/zero"), "folder": tmp_path}[kind]
    if kind == "pipe":
        os.mkfifo(path)
    with pytest.raises(DownloadFailed, match="it is not a regular file"):
        await asyncio.wait_for(a_store(folder).fetch(path.as_uri()), 10)
    assert names(folder) == []


async def test_slow_downloads_and_commands_take_no_thread_from_anybody(folder: Path) -> None:
    loop = asyncio.get_running_loop()
    mar(folder, "local")
    with ThreadPoolExecutor(1) as pool:
        loop.set_default_executor(pool)
        async with dripping() as server:
            url = f"http://127.0.0.1:{server.port}"
            store = a_store(folder)
            tasks = [asyncio.create_task(store.fetch(f"{url}/{n}.mar")) for n in range(3)]
            command = [sys.executable, "-c", "import time; time.sleep(60)"]
            pip = asyncio.create_task(run(command, os.environ, 60.0))
            await server.met.wait()
            assert await asyncio.wait_for(asyncio.to_thread(lambda: 1), 10) == 1
            archive = await asyncio.wait_for(store.fetch("local.mar"), 10)
            await store.discard(archive)
            for task in (*tasks, pip):
                await ended(task)


async def test_a_command_whose_offspring_keeps_the_pipe_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ts_frontend.core.command._KILL_SECONDS", 0.1)
    code = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(8)'], "
        "start_new_session=True)\n"
        "time.sleep(60)"
    )
    begun = time.monotonic()
    with pytest.raises(CommandFailed, match="did not end within"):
        await run([sys.executable, "-c", code], os.environ, 1.0)
    assert time.monotonic() - begun < 6


async def test_part_files_of_dead_servers_are_removed_and_no_others(folder: Path) -> None:
    (folder / ".mine.part").write_text("no name of ours")
    (folder / "m.mar").write_text("")
    dead, file = part_file.create(folder / "m.mar")
    file.close()  # as the kernel does for who is killed
    alive, file = part_file.create(folder / "m.mar")
    with file:
        await a_store(folder).clear_stale()
        assert names(folder) == sorted([".mine.part", "m.mar", alive.name])
    assert dead != alive
    await a_store(folder).clear_stale()
    assert names(folder) == [".mine.part", "m.mar"]
    await a_store(folder / "none").clear_stale()


async def test_a_store_without_hard_links_will_do(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "link", link)
    source = mar(tmp_path / "elsewhere")
    store = a_store(folder)
    results = await asyncio.gather(
        *[store.fetch(source.as_uri()) for _ in range(3)], return_exceptions=True
    )
    assert sum(isinstance(one, Internal) for one in results) == 2
    assert (folder / "m.mar").read_bytes() == source.read_bytes()
    assert names(folder) == ["m.mar"]


def sign(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set credentials, temporary ones."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "x")


async def test_a_signed_request_that_is_redirected_elsewhere_leaves_its_credentials(
    folder: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(monkeypatch)
    other = web.replace("127.0.0.1", "localhost")
    await a_store(folder).fetch(f"{web}/to/{other}/good.mar", s3_sse_kms=True)
    first, second = Files.seen
    assert first["x-amz-security-token"] == "x"
    assert second["host"] == other.removeprefix("http://")
    assert "authorization" not in second
    assert [name for name in second if name.startswith("x-amz")] == []


async def test_a_signed_request_that_is_redirected_to_its_own_host_is_signed_anew(
    folder: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign(monkeypatch)
    await a_store(folder).fetch(f"{web}/to/{web}/good.mar", s3_sse_kms=True)
    first, second = Files.seen
    assert second["host"] == first["host"] == web.removeprefix("http://")
    assert second["x-amz-security-token"] == "x"
    # A signature covers the path.
    assert second["authorization"] != first["authorization"]


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("https://s3.amazonaws.com/b/x", True),
        ("https://b.s3.eu-west-1.amazonaws.com/x", True),
        ("https://my.bucket.s3-eu-west-1.amazonaws.com/x", True),
        ("https://b.s3.cn-north-1.amazonaws.com.cn/x", True),
        ("http://b.s3.amazonaws.com/x", False),
        ("https://ec2-1-2-3-4.compute-1.amazonaws.com/x", False),
        ("https://s3.us-east-1.elb.amazonaws.com/x", False),
        ("https://xs3.amazonaws.com/x", False),
        ("https://s3.amazonaws.com.evil.com/x", False),
        ("https:///x", False),
    ],
)
def test_amazons_own_hosts_are_known(url: str, answer: bool) -> None:
    assert is_amazons(url) is answer


async def test_a_downloaded_archive_goes_with_the_last_that_comes_from_it(
    folder: Path, tmp_path: Path
) -> None:
    source = mar(tmp_path / "elsewhere")
    store = a_store(folder)
    first = await store.fetch(source.as_uri())
    second = await store.fetch("m.mar")
    await store.discard(first)
    assert names(folder) == ["m.mar"]
    third = await store.fetch("m.mar")
    await store.discard(second)
    assert names(folder) == ["m.mar"]
    await store.discard(third)
    assert names(folder) == []
    again = await store.fetch(source.as_uri())
    await store.discard(again)
    assert names(folder) == []
    assert leftovers(folder) == []


async def test_a_local_archive_stays_with_whoever_comes_from_it(folder: Path) -> None:
    mar(folder)
    store = a_store(folder)
    for archive in [await store.fetch("m.mar") for _ in range(2)]:
        await store.discard(archive)
    assert (folder / "m.mar").is_file()


async def test_own_threads_hand_on_what_comes_of_them() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert await in_own_thread(lambda: 1, "x") == 1
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0, "x")
    with pytest.raises(RuntimeError, match="SystemExit: 3"):
        await in_own_thread(leave, "x")
