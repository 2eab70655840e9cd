"""Where snapshots are kept: files that are whole and private, and the choice among plugins."""

from __future__ import annotations

import os
import stat
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from ts_frontend import snapshot_store
from ts_frontend.config import ConfigError
from ts_frontend.snapshot_store import GROUP, MARK, Folder, open_store

OURS = f"#Saving snapshot\n#today\n#{MARK} 1.0\nx=1\n"


def name(number: int, kind: str = "snapshot") -> str:
    return f"{20240101000000000 + number}-{kind}.cfg"


def test_what_is_saved_is_the_last(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "logs" / "config")
    assert folder.last() is None
    folder.save(name(1), "a\u00e9")
    folder.save(name(3), "c")
    folder.save(name(2), "b")
    assert folder.last() == (name(3), "c")
    assert sorted(os.listdir(tmp_path / "logs" / "config")) == [name(1), name(2), name(3)]


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Folder(tmp_path).save(name(1), "keystore_pass=secret")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / name(1)).stat().st_mode) == 0o600


def test_names_without_a_time_and_folders_are_no_snapshots(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.save(name(1), "a")
    for other in ("backup.cfg", "z-snapshot.cfg", f".{name(5)}.123", f"{name(6)}~"):
        (tmp_path / other).write_text("no")
    (tmp_path / name(9)).mkdir()
    assert folder.last() == (name(1), "a")


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_there_stays_as_it_is(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # some network file systems have none

        def refuse(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", refuse)
    folder = Folder(tmp_path)
    folder.save(name(1), "first")
    with pytest.raises(FileExistsError):
        folder.save(name(1), "second")
    assert os.listdir(tmp_path) == [name(1)]
    assert folder.last() == (name(1), "first")


def test_a_save_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        Folder(tmp_path).save(name(1), "x")
    assert os.listdir(tmp_path) == []


def test_the_newest_of_each_kind_are_kept_and_nothing_of_others(tmp_path: Path) -> None:
    foreign = [name(1), "0-own.cfg", "notes.cfg"]
    for other in foreign:
        (tmp_path / other).write_text("#Saving snapshot\n#a date\nmodel_store=x\n")
    folder = Folder(tmp_path, kept=2)
    folder.save(name(2, "startup"), OURS)
    for number in range(3, 8):
        folder.save(name(number), OURS)
    assert sorted(os.listdir(tmp_path)) == sorted([*foreign, name(2, "startup"), name(6), name(7)])


class Store:
    def save(self, name: str, text: str) -> None: ...
    def last(self) -> tuple[str, str] | None: ...


INSTANCE = Store()
HALF = object()


def install(monkeypatch: pytest.MonkeyPatch, **entries: str) -> None:
    found = EntryPoints(
        EntryPoint(title, f"{__name__}:{value}" if ":" not in value else value, GROUP)
        for title, value in entries.items()
    )
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


def test_without_plugins_it_is_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    opened = open_store(None, tmp_path)
    assert isinstance(opened.store, Folder)
    assert opened.label("a.cfg") == str(tmp_path / "a.cfg")
    assert not snapshot_store.installed()


@pytest.mark.parametrize("value", ["Store", "INSTANCE"])
def test_the_only_plugin_is_used(
    value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, one=value)
    opened = open_store(None, tmp_path)
    assert isinstance(opened.store, Store)
    assert opened.title == f"store one ({__name__}:{value} of unknown)"
    assert opened.label("a.cfg") == "a.cfg of snapshot store one"
    assert snapshot_store.installed()
    assert isinstance(open_store("file", tmp_path).store, Folder)


def test_one_of_several_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, one="Store", two="INSTANCE")
    assert open_store("two", tmp_path).store is INSTANCE
    with pytest.raises(ConfigError, match=r"several .* one \(.*, two \(.* TS_SNAPSHOT_STORE"):
        open_store(None, tmp_path)
    with pytest.raises(ConfigError, match="snapshot_store=three: no snapshot store has this name"):
        open_store("three", tmp_path)


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ("no_such_module:x", "does not load: ModuleNotFoundError: No module named"),
        ("Missing", "does not load: AttributeError"),
        ("HALF", "has no method save"),
    ],
)
def test_a_plugin_that_does_not_load_is_named(
    value: str, cause: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, one=value)
    with pytest.raises(ConfigError, match=rf"snapshot store one \(.*{value} of unknown\) {cause}"):
        open_store(None, tmp_path)
