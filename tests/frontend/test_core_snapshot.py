"""When snapshots are written, under which names, and that nothing hurts when they can't be."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from ts_frontend.config import Config
from ts_frontend.core import snapshot as module
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.model_snapshot import SavedVersion, model_snapshot
from ts_frontend.properties import parse
from ts_frontend.values import BadValue

NOON = datetime(2024, 10, 27, 12, 0, 0, 123_456).timestamp()


class Memory:
    """A store in memory. ``gate`` holds up each save until it is set."""

    def __init__(self, last: tuple[str, str] | None = None) -> None:
        self.saved: list[tuple[str, str]] = []
        self.taken: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.began = threading.Event()
        self.error: Exception | None = None
        self._last = last

    def save(self, name: str, text: str) -> None:
        self.began.set()
        self.gate.wait(20)
        if self.error is not None:
            raise self.error
        if name in self.taken:
            raise FileExistsError(name)
        self.saved.append((name, text))

    def last(self) -> tuple[str, str] | None:
        return self._last

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.saved]


def version(number: str = "1.0", workers: int = 1) -> SavedVersion:
    return SavedVersion("m", number, True, "m.mar", workers, workers, 1, 100)


class Bench:
    """Snapshots of a list that tests change."""

    def __init__(
        self,
        store: Memory | None = None,
        config: Config | None = None,
        clock: Callable[[], float] = lambda: NOON,
    ) -> None:
        self.store = store or Memory()
        self.there = [version()]
        self.failed: list[str] = []
        self.snapshots = Snapshots(
            config or Config(),
            self.store,
            lambda: self.there,
            failed=lambda: self.failed,
            clock=clock,
        )

    async def settled(self) -> None:
        while (writing := self.snapshots._writing) is not None and not writing.done():
            await writing

    def restored(self, index: int = -1) -> tuple[SavedVersion, ...]:
        entries = {entry.key: entry.value for entry in parse(self.store.saved[index][1])}
        found = model_snapshot(entries["model_snapshot"])
        assert found is not None
        assert found.name == self.store.saved[index][0]
        return found.versions


async def test_nothing_is_written_until_the_models_of_the_start_are_registered() -> None:
    bench = Bench()
    bench.snapshots.changed()
    await bench.settled()
    await bench.snapshots.close()
    assert bench.store.saved == []


async def test_start_changes_and_end() -> None:
    bench = Bench()
    bench.snapshots.begin()
    await bench.settled()
    bench.there = [version(workers=3)]
    bench.snapshots.changed()
    await bench.settled()
    bench.there = []
    await bench.snapshots.close()
    assert bench.store.names == [
        "20241027120000123-startup.cfg",
        "20241027120000124-snapshot.cfg",
        "20241027120000125-shutdown.cfg",
    ]
    assert bench.restored(0) == (version(),)
    assert bench.restored(1) == (version(workers=3),)
    bench.snapshots.changed()
    await bench.settled()
    assert len(bench.store.saved) == 3


async def test_changes_during_a_write_make_one_more() -> None:
    bench = Bench()
    bench.store.gate.clear()
    bench.snapshots.begin()
    await asyncio.to_thread(bench.store.began.wait, 20)
    for workers in range(2, 9):
        bench.there = [version(workers=workers)]
        bench.snapshots.changed()
    bench.store.gate.set()
    await bench.settled()
    assert [name.partition("-")[2] for name in bench.store.names] == [
        "startup.cfg",
        "snapshot.cfg",
    ]
    assert bench.restored() == (version(workers=8),)


async def test_the_end_of_a_server_does_not_hide_the_one_that_took_over() -> None:
    bench = Bench()
    bench.snapshots.begin()
    await bench.settled()
    bench.store._last = ("20991231000000000-startup.cfg", "of the other one")
    await bench.snapshots.close()
    assert [name.partition("-")[2] for name in bench.store.names] == ["startup.cfg"]


async def test_a_name_that_is_taken_gives_the_next_millisecond() -> None:
    bench = Bench()
    bench.store.taken = {f"20241027120000{ms}-startup.cfg" for ms in (123, 124)}
    bench.snapshots.begin()
    await bench.settled()
    assert bench.store.names == ["20241027120000125-startup.cfg"]
    assert bench.restored() == (version(),)


async def test_a_clock_set_back_gives_no_older_name() -> None:
    """The last name is what is restored; local time goes back each autumn."""
    bench = Bench(Memory(("20241027125959999-shutdown.cfg", "")))
    bench.snapshots.begin()
    await bench.settled()
    assert bench.store.names == ["20241027130000000-startup.cfg"]


@pytest.mark.parametrize("last", ["a backup", "99999999999999999-x.cfg"])
async def test_a_last_name_without_a_time_does_not_matter(last: str) -> None:
    bench = Bench(Memory((last, "")))
    bench.snapshots.begin()
    await bench.settled()
    assert bench.store.names == ["20241027120000123-startup.cfg"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyError("bug")])
async def test_a_write_that_fails_is_a_line_in_the_log(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    bench.store.error = error
    bench.snapshots.begin()
    await bench.settled()
    bench.store.error = None
    bench.snapshots.changed()
    await bench.settled()
    assert len(bench.store.saved) == 1
    lines = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
    assert lines == [f"Snapshot not written: {type(error).__name__}: {error}"]


async def test_names_are_not_tried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    class Full(Memory):
        def save(self, name: str, text: str) -> None:
            raise FileExistsError(name)

    bench = Bench(Full())
    bench.snapshots.begin()
    await bench.settled()
    assert "99 names before it are taken" in caplog.text


async def test_a_store_that_hangs_does_not_keep_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "CLOSE_SECONDS", 0.05)
    bench = Bench()
    bench.store.gate.clear()
    bench.snapshots.begin()
    await bench.snapshots.close()
    bench.store.gate.set()
    assert "The last snapshot took more than" in caplog.text


@pytest.mark.parametrize("there", [[], [version()]])
async def test_what_failed_is_written_and_read(there: list[SavedVersion]) -> None:
    bench = Bench()
    bench.there, bench.failed = there, ["m=http://h/m.mar"]
    bench.snapshots.begin()
    await bench.settled()
    text = {entry.key: entry.value for entry in parse(bench.store.saved[0][1])}["model_snapshot"]
    # Without models there is a warning, unless some are tried again.
    found = model_snapshot(text)
    assert found is not None
    assert (list(found.versions), found.failed) == (there, ("m=http://h/m.mar",))
    assert found.plain()["failedModels"] == ["m=http://h/m.mar"]
    for bad in ('{"failedModels": "m"}', '{"failedModels": {}}'):
        with pytest.raises(BadValue, match="expected a JSON array for failedModels"):
            model_snapshot(bad)


async def test_the_text_is_a_configuration(tmp_path: Path) -> None:
    written = (
        ("inference_address", "http://127.0.0.1:8080"),
        ("keystore_pass", "$$PASS$$"),
        ("model_snapshot", "of the run before"),
        ("vmargs", " -a\\b=ü\n"),
    )
    bench = Bench(config=Config(written=written, source=tmp_path / "x.cfg"))
    bench.snapshots.begin()
    await bench.settled()
    text = bench.store.saved[0][1]
    assert text.isascii()
    lines = text.splitlines()
    assert lines[0] == "#Saving snapshot"
    assert lines[1] == time.strftime("#%a %b %d %H:%M:%S %Z %Y", time.localtime(NOON))
    assert "inference_address=http\\://127.0.0.1\\:8080" in lines
    entries = {entry.key: entry.value for entry in parse(text)}
    assert list(entries) == [
        "inference_address",
        "keystore_pass",
        "vmargs",
        "version",
        "tsConfigFile",
        "model_snapshot",
    ]
    assert entries["vmargs"] == " -a\\b=ü\n"
    assert entries["keystore_pass"] == "$$PASS$$"
    assert f'"created": {int(NOON * 1000)}' in entries["model_snapshot"]
