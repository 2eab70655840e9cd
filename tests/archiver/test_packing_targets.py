"""What `pack` refuses, and what is at the target when it succeeds, fails or is interrupted."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import ts_archiver
from ts_archiver import (
    AlreadyExists,
    BadOption,
    MissingInput,
    PackError,
    WriteFailed,
    cli,
    pack,
    writers,
)


def test_forced_no_archive_merges_and_removes_nothing(model: Path) -> None:
    pack("m", "h.py", "1", extra_files="extra", archive_format="no-archive")
    before = {p.relative_to("m") for p in Path("m").rglob("*") if p.is_file()}
    Path("m", "notes.txt").write_text("the user's")
    pack("m", "h.py", "2", archive_format="no-archive", force=True)
    after = {p.relative_to("m") for p in Path("m").rglob("*") if p.is_file()}
    assert after == before | {Path("notes.txt")}
    assert ts_archiver.read_manifest("m")["model"]["modelVersion"] == "2"
    assert not list(model.rglob(".*.tmp")) + list(model.rglob(".*.old"))


def test_forced_no_archive_takes_a_folder_without_a_manifest(model: Path) -> None:
    pack("extra", "h.py", "1", archive_format="no-archive", force=True)
    assert Path("extra", "labels.json").exists()
    assert Path("extra", "h.py").exists()
    assert ts_archiver.read_manifest("extra")["model"]["handler"] == "h.py"


def test_forced_no_archive_refuses_a_folder_in_a_files_place_before_it_moves(model: Path) -> None:
    Path("m/labels.json").mkdir(parents=True)
    with pytest.raises(AlreadyExists, match=r"m/labels\.json is a folder and would become a file"):
        pack("m", "h.py", "1", extra_files="extra", archive_format="no-archive", force=True)
    assert [path.name for path in Path("m").iterdir()] == ["labels.json"]
    Path("m/labels.json").rmdir()
    Path("m/sub").write_text("a file")
    with pytest.raises(AlreadyExists, match="m/sub is a file and would become a folder"):
        pack("m", "h.py", "1", extra_files="extra", archive_format="no-archive", force=True)
    assert [path.name for path in Path("m").iterdir()] == ["sub"]


@pytest.mark.parametrize("archive_format", ["default", "no-archive"])
def test_a_linked_target_stays_a_link(model: Path, archive_format: str) -> None:
    name = "m" if archive_format == "no-archive" else "m.mar"
    real = pack("m", "h.py", "1", export_path="store", archive_format=archive_format)
    Path(name).symlink_to(real)
    pack("m", "h.py", "2", archive_format=archive_format, force=True)
    assert Path(name).is_symlink()
    assert ts_archiver.read_manifest(real)["model"]["modelVersion"] == "2"
    assert not list(model.rglob(".m*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_leave_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(
        writers.ZipWriter, "add", lambda *_: os.kill(os.getpid(), number) or pytest.fail("alive")
    )
    monkeypatch.setattr(
        sys, "argv", ["archiver", "--model-name", "m", "--handler", "h.py", "-v", "1"]
    )
    before = sorted(model.rglob("*"))
    handlers = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, lambda *_: None)  # the default would end the test run
        with pytest.raises(SystemExit) as caught:
            cli.archiver()
        assert caught.value.code == 128 + number
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup starts a command
        with contextlib.suppress(SystemExit):
            monkeypatch.setattr(sys, "argv", ["archiver"])
            cli.archiver()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    assert sorted(model.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "a b", "../up", ".hidden", "-dash", "a/b", "a\n", "ä"])
def test_bad_model_names(model: Path, name: str) -> None:
    with pytest.raises(BadOption, match="model name"):
        pack(name, "h.py", "1")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"handler": "nowhere"}, MissingInput, "nowhere.py does not exist"),
        ({"handler": ""}, BadOption, "handler is empty"),
        ({"serialized_file": "no.pt"}, MissingInput, "no.pt does not exist"),
        ({"model_file": "extra"}, MissingInput, "extra is a folder"),
        ({"extra_files": "w.pt,no.txt"}, MissingInput, "no.txt does not exist"),
        ({"extra_files": "/dev/null"}, MissingInput, "/dev/null is no plain file"),
        ({"requirements_file": "no.txt"}, MissingInput, "no.txt does not exist"),
        ({"config_file": "no.yaml"}, MissingInput, "no.yaml does not exist"),
        ({"runtime": "java"}, BadOption, "unknown runtime 'java'"),
        ({"archive_format": "rar"}, BadOption, "unknown format 'rar'"),
        ({"export_path": "w.pt"}, WriteFailed, "w.pt is not a folder"),
        ({"export_path": "w.pt/x"}, WriteFailed, "can't write w.pt/x/m.mar: Not a directory"),
    ],
)
def test_bad_input_leaves_nothing(
    model: Path, options: dict[str, str], error: type[PackError], text: str
) -> None:
    before = sorted(model.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        pack(**{"model_name": "m", "handler": "h.py", "version": "1", **options})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert sorted(model.rglob("*")) == before


def test_existing_archive_needs_force(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pack("m", "h.py", "1")
    old = path.read_bytes()
    with pytest.raises(AlreadyExists, match=r"m\.mar already exists\. Use --force"):
        pack("m", "h.py", "2")
    assert path.read_bytes() == old
    pack("m", "h.py", "2", force=True)
    assert ts_archiver.read_manifest(path)["model"]["modelVersion"] == "2"


def test_missing_export_path_is_made(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    pack("m", "h.py", "1", export_path="new/deeper")
    assert Path("new/deeper/m.mar").is_file()
    assert "new/deeper does not exist: creating it" in caplog.text


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_writing_leaves_nothing(
    model: Path, monkeypatch: pytest.MonkeyPatch, archive_format: str, stop: Any
) -> None:
    pack("m", "h.py", "1", export_path="out", archive_format=archive_format)
    before = {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()}

    def add_half(self: object, member: object, chunks: Any) -> None:
        next(iter(chunks))
        raise stop

    for writer in (writers.ZipWriter, writers.TgzWriter, writers.FolderWriter):
        monkeypatch.setattr(writer, "add", add_half)
    expected = WriteFailed if isinstance(stop, OSError) else KeyboardInterrupt
    for folder, force in (("out", True), ("fresh/deep", False)):
        with pytest.raises(expected, match="No space left" if expected is WriteFailed else None):
            pack("m", "h.py", "2", export_path=folder, archive_format=archive_format, force=force)
    assert {p: p.read_bytes() for p in Path("out").rglob("*") if p.is_file()} == before
    assert not Path("fresh").exists()


def test_input_that_grows_is_noticed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = writers.storage_of

    def grow(name: str, path: Path) -> object:
        if name == "w.pt":
            with path.open("ab") as file:
                file.write(b"more")
        return real(name, path)

    monkeypatch.setattr(writers, "storage_of", grow)
    with pytest.raises(MissingInput, match=r"w\.pt changed while it was packaged"):
        pack("m", "h.py", "1", serialized_file="w.pt")
    assert not list(model.glob("*.mar")) + list(model.glob(".*.tmp"))


def test_syntax_error_in_handler_warns(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("broken.py").write_text("import os\n\ndef handle(data, context:\n    return data\n")
    Path("old.py").write_text("PATTERN = '\\d'\n")  # Python warns; a worker loads it
    pack("m", "broken.py", "1", model_file="old.py")
    assert "broken.py line 3:" in caplog.text
    assert "old.py" not in caplog.text


def test_a_misspelled_built_in_handler_is_told_from_a_missing_file(model: Path) -> None:
    with pytest.raises(MissingInput, match=r"Did you mean image_classifier\? Built-in are "):
        pack("m", "image_clasifier", "1")
    with pytest.raises(MissingInput, match=r"file nope\.py does not exist\. Check the path"):
        pack("m", "nope.py", "1")


@pytest.mark.parametrize(
    ("text", "cause"), [("a: [1\n", "is not valid YAML"), ("just words", "holds no `key: value`")]
)
def test_a_config_file_that_no_server_reads_is_packed_with_a_warning(
    model: Path, caplog: pytest.LogCaptureFixture, text: str, cause: str
) -> None:
    Path("c.yaml").write_text(text)
    pack("m", "h.py", "1", config_file="c.yaml")
    assert cause in caplog.text
