"""A version loaded anew: the old workers serve until the new ones can, and no request is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.core_rig import Site, until
from tests.fakes import LoadFailed, hold, make_request
from ts_frontend import server
from ts_frontend.core import watch
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.watch import Watcher
from ts_frontend.errors import InvalidModel, ModelNotFound, ServeError
from ts_worker.backend.base import WorkerSpec


def version(site: Site) -> ModelVersion:
    return site.catalog.find("m")


def edit(url: str, name: str = "handler.py", text: str = "# edited\n") -> None:
    """Change a file; its time too, however coarse the file system's clock is."""
    path = Path(url) / name
    path.write_text(path.read_text() + text if path.exists() else text)
    os.utime(path, ns=(path.stat().st_mtime_ns + 10**9,) * 2)


async def reload(site: Site, model: ModelVersion) -> ModelVersion:
    """Reload and end what was replaced."""
    new = await site.management.reloader.reload(model)
    await site.management.reloader.retire(model)
    return new


async def predict(site: Site) -> bytes:
    return bytes((await site.inference.predict("m", None, make_request(b"x"))).body)


async def test_new_workers_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(), workers=2)
        old = version(site)
        pids = {worker.pid for worker in site.backend.alive}

        new = await reload(site, old)

        assert version(site) is new is not old
        assert site.catalog.find("m", "1.0") is new
        assert (new.min_workers, len(new.slots), len(site.backend.alive)) == (2, 2, 2)
        assert pids.isdisjoint(worker.pid for worker in site.backend.alive)
        assert await predict(site) == b"x"
        assert new.archive.model_dir.exists()
        assert not old.archive.root.exists()


async def test_the_old_worker_serves_while_the_new_one_loads(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model())
        old, gate = site.worker, asyncio.Event()

        async def load(spec: WorkerSpec) -> None:
            await gate.wait()

        site.backend.load = load
        reloading = asyncio.create_task(reload(site, version(site)))
        await until(lambda: len(site.backend.specs) == 2)
        assert await predict(site) == b"x"
        assert len(old.batches) == 1
        gate.set()
        await reloading
        assert await predict(site) == b"x"
        assert (len(old.batches), len(site.worker.batches)) == (1, 1)


async def test_what_runs_is_answered_and_what_waits_moves_over(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model())
        old = site.worker
        old.behaviour = hold
        running = asyncio.create_task(predict(site))
        await old.received()
        waiting = [asyncio.create_task(predict(site)) for _ in range(3)]
        await until(lambda: version(site).queue.backlog()[0] >= 1)
        gone = version(site)

        reloading = asyncio.create_task(reload(site, gone))
        await until(lambda: version(site) is not gone)
        await until(lambda: bool(site.worker.batches))
        while old.current:
            old.finish()
        await reloading

        assert await running == b"x"
        assert await asyncio.gather(*waiting) == [b"x"] * 3
        assert site.worker is not old
        assert len(gone.queue) == 0
        await asyncio.wait_for(version(site).queue.join(), 1)


async def test_a_dying_old_worker_returns_its_jobs_to_the_new_one(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model())
        old = site.worker
        for _ in range(60):
            await predict(site)  # a quick worker, which is sent its next batches ahead
        old.behaviour = hold
        asked = [asyncio.create_task(predict(site)) for _ in range(4)]
        await old.received(62)
        gone = version(site)
        reloading = asyncio.create_task(reload(site, gone))
        await until(lambda: version(site) is not gone)
        old.die(1, None)
        await reloading
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        failed = [outcome for outcome in outcomes if isinstance(outcome, ServeError)]
        assert len(failed) == 1  # which had begun, and is not run again
        assert outcomes.count(b"x") == 3


async def test_a_failing_load_changes_nothing(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model())
        old, before = version(site), site.unpacked

        async def load(spec: WorkerSpec) -> None:
            raise LoadFailed(500, "SyntaxError: oh", "line 1\n")

        site.backend.load = load
        with pytest.raises(ServeError, match="SyntaxError: oh"):
            await reload(site, old)
        assert version(site) is old
        assert await predict(site) == b"x"
        assert len(site.backend.alive) == 1
        assert site.unpacked == before


async def test_another_version_in_the_folder_is_refused(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model()
        await site.register(url)
        path = Path(url) / "MAR-INF" / "MANIFEST.json"
        manifest = json.loads(path.read_text())
        manifest["model"]["modelVersion"] = "2.0"
        path.write_text(json.dumps(manifest))
        with pytest.raises(InvalidModel, match=r"now has version 2.0 of model m"):
            await reload(site, version(site))
        assert len(site.backend.alive) == 1


async def test_the_yaml_counts_anew_and_scaling_is_kept(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model(yaml="batchSize: 2\nminWorkers: 1\nmaxWorkers: 1\n")
        await site.register(url)
        await site.management.scale("m", None, 3, 3, True)
        (Path(url) / "model-config.yaml").write_text("batchSize: 4\nminWorkers: 1\nmaxWorkers: 1\n")
        new = await reload(site, version(site))
        assert (new.settings.batch_size, new.queue.batch_size, new.min_workers) == (4, 4, 3)
        (Path(url) / "model-config.yaml").write_text("minWorkers: 2\nmaxWorkers: 2\n")
        new = await reload(site, new)
        assert (new.min_workers, len(site.backend.alive)) == (2, 2)


async def test_unregistering_meanwhile_ends_the_reload(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model())
        gate = asyncio.Event()

        async def load(spec: WorkerSpec) -> None:
            await gate.wait()

        site.backend.load = load
        reloading = asyncio.create_task(reload(site, version(site)))
        await until(lambda: len(site.backend.specs) == 2)
        await site.management.unregister("m", None)
        gate.set()
        with pytest.raises(ModelNotFound):
            await reloading
        assert site.backend.alive == []
        assert site.unpacked == 0


# Watching.


@asynccontextmanager
async def watched(tmp_path: Path) -> AsyncIterator[tuple[Site, str, Watcher]]:
    """A site with a model in a folder, which a watcher has looked at."""
    async with Site(tmp_path) as site:
        url = site.model()
        await site.register(url)
        watcher = Watcher(site.catalog, site.management.reloader)
        await looks(watcher, 1)
        yield site, url, watcher


async def looks(watcher: Watcher, count: int) -> None:
    for _ in range(count):
        await watcher.look()
        await watcher.settled()


async def test_a_change_reloads_once_it_is_quiet(tmp_path: Path) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        first = version(site)
        edit(url)
        await looks(watcher, 1)
        edit(url)  # still being written
        await looks(watcher, 1)
        assert version(site) is first
        await looks(watcher, 1)
        second = version(site)
        assert second is not first
        await looks(watcher, 3)
        assert version(site) is second
        edit(url, "more.py")
        await looks(watcher, 2)
        assert version(site) is not second


async def test_a_change_while_the_old_worker_ends_is_seen(tmp_path: Path) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        old, first = site.worker, version(site)
        old.behaviour = hold
        asked = asyncio.create_task(predict(site))
        await old.received()
        edit(url)
        await watcher.look()
        await watcher.look()
        await until(lambda: version(site) is not first)
        second = version(site)
        edit(url)
        await watcher.look()
        await watcher.look()
        await until(lambda: version(site) is not second)
        assert not asked.done()
        old.finish()
        assert await asked == b"x"
        await watcher.settled()


@pytest.mark.parametrize(
    "name", [".handler.py.swp", "handler.py~", "requests.log", "__pycache__/h.py", ".git/index"]
)
async def test_noise_reloads_nothing(tmp_path: Path, name: str) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        first = version(site)
        (Path(url) / name).parent.mkdir(exist_ok=True)
        edit(url, name)
        await looks(watcher, 3)
        assert version(site) is first


async def test_a_failure_shows_until_the_next_change(tmp_path: Path, caplog) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        first = version(site)

        async def load(spec: WorkerSpec) -> None:
            raise LoadFailed(500, "NameError: oh", "Traceback:\n  line 1")

        site.backend.load = load
        edit(url)
        await looks(watcher, 4)
        assert len(site.backend.specs) == 2  # tried once
        assert "goes on as it was, the reload failed" in caplog.text
        body = (await site.management.describe("m", None))[0]
        assert body["reloadError"]["error"].endswith("version: 1.0 NameError: oh")
        assert body["reloadError"]["traceback"] == ["Traceback:", "  line 1"]
        assert body["workers"][0]["status"] == "READY"

        site.backend.load = None
        edit(url)
        await looks(watcher, 2)
        assert version(site) is not first
        assert "reloadError" not in (await site.management.describe("m", None))[0]


async def test_taking_an_edit_back_forgets_the_failure(tmp_path: Path) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        path = Path(url) / "MAR-INF" / "MANIFEST.json"
        good, times = path.read_text(), path.stat()
        path.write_text("{")
        await looks(watcher, 2)
        assert "signature.json" in version(site).reload_failure.text
        path.write_text(good)
        os.utime(path, ns=(times.st_mtime_ns, times.st_mtime_ns))
        await looks(watcher, 2)
        assert version(site).reload_failure is None
        assert len(site.backend.specs) == 1


async def test_what_the_model_writes_itself_ends_no_better_than_twice(
    tmp_path: Path, caplog
) -> None:
    async with watched(tmp_path) as (site, url, watcher):

        async def load(spec: WorkerSpec) -> None:
            edit(url, "state.json", "{}")

        site.backend.load = load
        edit(url)
        await looks(watcher, 12)
        assert len(site.backend.specs) == 4
        assert "writes into its folder: state.json no longer count" in caplog.text
        edit(url)
        await looks(watcher, 3)
        assert len(site.backend.specs) == 5


async def test_archives_are_not_watched_and_gone_models_are_forgotten(tmp_path: Path) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        await site.management.unregister("m", None)
        edit(url)
        await looks(watcher, 3)
        assert len(site.backend.specs) == 1


async def test_cancelling_ends_reloads_and_leaves_nothing(tmp_path: Path) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        before = site.unpacked

        async def load(spec: WorkerSpec) -> None:
            await asyncio.Event().wait()

        site.backend.load = load
        edit(url)
        running = asyncio.create_task(watcher.run(interval=0.001))
        await until(lambda: len(site.backend.specs) == 2)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert len(site.backend.alive) == 1
        assert site.unpacked == before


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EIO])
async def test_a_folder_that_cannot_be_read_is_looked_at_again_later(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    async with watched(tmp_path) as (site, url, watcher):
        first, scandir = version(site), os.scandir

        def fails(path: str) -> object:
            raise OSError(code, os.strerror(code), path)

        monkeypatch.setattr(os, "scandir", fails)
        await looks(watcher, 3)
        assert version(site) is first
        why = f"can't be watched until it can be read again: {os.strerror(code)}"
        assert caplog.text.count(why) == 1
        monkeypatch.setattr(os, "scandir", scandir)
        edit(url)
        await looks(watcher, 2)
        assert version(site) is not first


async def test_a_hung_folder_holds_one_thread_and_keeps_nobody_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "READ_SECONDS", 0.01)
    async with watched(tmp_path) as (site, url, watcher):
        first, scan, answers = version(site), watch._scan, threading.Event()
        hung: list[threading.Thread] = []

        def hangs(folder: Path) -> watch.Files:
            hung.append(threading.current_thread())
            answers.wait()
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder))

        monkeypatch.setattr(watch, "_scan", hangs)
        await looks(watcher, 5)
        (thread,) = hung
        assert thread.daemon  # the process ends without it
        answers.set()
        await until(lambda: not thread.is_alive())
        monkeypatch.setattr(watch, "READ_SECONDS", 5)
        monkeypatch.setattr(watch, "_scan", scan)
        edit(url)
        await until(lambda: all(scan.done() for scan in watcher._scans.values()))
        await looks(watcher, 2)
        assert version(site) is not first


async def test_a_bug_is_logged_and_the_next_look_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    async with watched(tmp_path) as (_, _, watcher):
        looked: list[None] = []

        async def breaks() -> None:
            looked.append(None)
            raise RuntimeError("oh")

        monkeypatch.setattr(Watcher, "look", lambda self: breaks())
        running = asyncio.create_task(watcher.run(interval=0.001))
        await until(lambda: len(looked) > 1)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert "it goes on" in caplog.text


async def test_what_broke_beside_the_requests_does_not_break_the_end(caplog) -> None:
    async def breaks() -> None:
        raise OSError(errno.EACCES, "Permission denied")

    task = asyncio.create_task(breaks())
    await asyncio.wait([task])
    await server._cancel(task)
    assert "Permission denied" in caplog.text
