"""What `pack` writes: layouts, manifest, rules for names, alignment, same bytes every time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import signal
import struct
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

import ts_archiver
from ts_archiver import (
    AlreadyExists,
    BadOption,
    Collision,
    MissingInput,
    PackError,
    WriteFailed,
    cli,
    pack,
    writers,
)
from ts_archiver.gzipstream import DEFLATE, STORE, GzipStream

MANIFEST = "MAR-INF/MANIFEST.json"


def manifest_of(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read(MANIFEST)))


def data_offset(path: Path, name: str) -> int:
    """Where a member's bytes start, from its local header alone."""
    with zipfile.ZipFile(path) as archive:
        header = archive.getinfo(name).header_offset
    with path.open("rb") as file:
        file.seek(header + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
    return header + 30 + int(name_length) + int(extra_length)


def test_default_layout_and_manifest(model: Path) -> None:
    path = pack(
        "resnet",
        "h.py:handle",
        "2.1",
        serialized_file="w.pt",
        model_file="./m.py",
        extra_files="extra, requirements.txt",
        requirements_file="requirements.txt",
        config_file=model / "model-config.yaml",
    )
    assert path == Path("resnet.mar")
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [
            ".hidden",
            "h.py",
            "labels.json",
            "m.py",
            "model-config.yaml",
            "requirements.txt",
            "sub/deep.txt",
            "w.pt",
            MANIFEST,
        ]
        assert archive.read("w.pt") == (model / "w.pt").read_bytes()
        text = archive.read(MANIFEST).decode()
    manifest = json.loads(text)
    assert text == json.dumps(manifest, indent=2)
    assert list(manifest) == ["createdOn", "runtime", "model", "archiverVersion", "files"]
    assert list(manifest["model"].items()) == [
        ("modelName", "resnet"),
        ("serializedFile", "w.pt"),
        ("handler", "h.py:handle"),
        ("modelFile", "m.py"),
        ("modelVersion", "2.1"),
        ("requirementsFile", "requirements.txt"),
        ("configFile", "model-config.yaml"),
    ]
    assert manifest["createdOn"] == "14/11/2023 22:13:20"
    weights = (model / "w.pt").read_bytes()
    assert manifest["files"]["w.pt"] == {
        "size": len(weights),
        "sha256": hashlib.sha256(weights).hexdigest(),
    }


def test_only_what_is_given_is_in_the_manifest(model: Path) -> None:
    manifest = manifest_of(pack("m", "image_classifier", "1.0"))
    assert manifest["model"] == {
        "modelName": "m",
        "handler": "image_classifier",
        "modelVersion": "1.0",
    }
    assert manifest["files"] == {}


@pytest.mark.parametrize(
    ("handler", "file", "entry"),
    [
        ("h.py", "h.py", "h.py"),
        ("h", "h.py", "h"),
        ("./h:handle", "h.py", "h:handle"),
        ("./h.py:handle", "h.py", "h.py:handle"),
        ("with.pyx/h:fn", "h.py", "h:fn"),  # TorchServe's tool trips over such a folder
        ("base_handler", None, "base_handler"),
        ("vllm_handler", None, "vllm_handler"),
        ("dali_image_classifier", None, "dali_image_classifier"),
        ("trt_llm_handler", None, "trt_llm_handler"),
    ],
)
def test_handler_forms(model: Path, handler: str, file: str | None, entry: str) -> None:
    (model / "with.pyx").mkdir()
    (model / "with.pyx" / "h.py").write_text("")
    path = pack("m", handler, "1")
    assert manifest_of(path)["model"]["handler"] == entry
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [*([file] if file else []), MANIFEST]


def test_lsp_takes_a_library(model: Path) -> None:
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    (model / f"libh{suffix}").write_bytes(b"elf")
    path = pack("m", "libh:MyHandler", "1", runtime="LSP")
    assert manifest_of(path)["runtime"] == "LSP"
    assert f"libh{suffix}" in zipfile.ZipFile(path).namelist()
    path = pack("n", "TorchScriptHandler", "1", runtime="LSP")
    assert zipfile.ZipFile(path).namelist() == [MANIFEST]


def test_tensors_are_stored_on_page_borders_and_text_is_deflated(model: Path) -> None:
    for name in ("a.safetensors", "b.bin", "c.npz", "ünï.onnx"):
        (model / name).write_bytes(os.urandom(5001))
    (model / "noise").write_bytes(os.urandom(200_000))
    (model / "words").write_text("word " * 40_000)
    extra = [model / name for name in ("a.safetensors", "b.bin", "c.npz", "ünï.onnx")]
    path = pack(
        "m",
        "h.py",
        "1",
        serialized_file="w.pt",
        extra_files=[*extra, "noise", "words", "extra/labels.json"],
    )
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        method = {info.filename: info.compress_type for info in archive.infolist()}
        # The padding is in the local headers only.
        assert all(info.extra == b"" for info in archive.infolist())
    for name in ("a.safetensors", "b.bin", "c.npz", "ünï.onnx", "w.pt"):
        assert method[name] == zipfile.ZIP_STORED
        offset = data_offset(path, name)
        assert offset % 4096 == 0
        raw = path.read_bytes()[offset:]
        assert raw.startswith((model / name).read_bytes())
    assert method["noise"] == zipfile.ZIP_STORED
    assert method["words"] == method["h.py"] == method["labels.json"] == zipfile.ZIP_DEFLATED


def test_large_members_are_aligned_too(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "ZIP64_FROM", 1)  # as if w.pt had more than 1 GiB
    path = pack("m", "h.py", "1", serialized_file="w.pt")
    assert data_offset(path, "w.pt") % 4096 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None


def test_zip_store_deflates_nothing(model: Path) -> None:
    path = pack("m", "h.py", "1", extra_files="extra", archive_format="zip-store")
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None


def test_tgz_layout(model: Path) -> None:
    path = pack("m", "h.py", "1", serialized_file="w.pt", extra_files="extra", archive_format="tgz")
    assert path == Path("m.tar.gz")
    with tarfile.open(path) as tar:
        names = tar.getnames()
        assert names[0] == "m/.hidden"
        assert names[-1] == f"m/{MANIFEST}"
        member = tar.extractfile("m/w.pt")
        assert member is not None
        assert member.read() == (model / "w.pt").read_bytes()
        assert {(info.uid, info.uname, info.mode) for info in tar} == {(0, "", 0o644)}
    assert path.read_bytes()[4:8] == b"\0\0\0\0"  # gzip's time


def test_gzip_pieces_make_one_stream(tmp_path: Path) -> None:
    import gzip
    import zlib

    text, noise = b"text " * 50_000, os.urandom(100_000)
    path = tmp_path / "x.gz"
    with path.open("wb") as file:
        stream = GzipStream(file)
        for level, data in ((DEFLATE, text), (STORE, noise), (DEFLATE, text), (STORE, noise)):
            stream.set_level(level)
            stream.write(data)
        stream.finish()
    with gzip.open(path) as unzipped:
        assert unzipped.read() == (text + noise) * 2
    one_member = zlib.decompressobj(wbits=31)  # unlike gzip.open it stops after the first member
    assert one_member.decompress(path.read_bytes()) == (text + noise) * 2
    assert one_member.eof
    assert path.stat().st_size < 2 * len(noise) + len(text) // 10


def test_no_archive_is_a_folder(model: Path) -> None:
    path = pack("m", "h.py", "1", extra_files="extra", archive_format="no-archive")
    assert path == Path("m")
    assert sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()) == [
        ".hidden",
        MANIFEST,
        "h.py",
        "labels.json",
        "sub/deep.txt",
    ]


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


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_same_inputs_same_bytes(
    model: Path, archive_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: str) -> bytes:
        return pack(
            "m",
            "h.py",
            "1",
            serialized_file="w.pt",
            extra_files="extra",
            export_path=folder,
            archive_format=archive_format,
        ).read_bytes()

    first = build("one")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert build("two") == first
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()


def test_created_on(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime("w.pt", (1_800_000_000, 1_800_000_000))
    path = pack("m", "h.py", "1", serialized_file="w.pt")
    assert manifest_of(path)["createdOn"] == "15/01/2027 08:00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    path = pack("m", "h.py", "1", force=True)
    assert manifest_of(path)["createdOn"] == "01/01/1970 00:00:00"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BadOption, match="SOURCE_DATE_EPOCH='yesterday'"):
        pack("m", "h.py", "1", force=True)


def test_extra_files_patterns_and_blanks(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    Path("a[1].txt").write_text("brackets")
    path = pack("m", "base_handler", "1", extra_files="extra/*.json, a[1].txt,,*.nothing")
    assert zipfile.ZipFile(path).namelist() == ["a[1].txt", "labels.json", MANIFEST]
    assert "no file matches the pattern *.nothing" in caplog.text


def test_keep_tree(model: Path) -> None:
    path = pack("m", "base_handler", "1", extra_files=model / "extra", keep_tree=True)
    assert zipfile.ZipFile(path).namelist() == [
        "extra/.hidden",
        "extra/labels.json",
        "extra/sub/deep.txt",
        MANIFEST,
    ]


def test_links_are_followed_and_loops_end(model: Path) -> None:
    Path("extra/link.txt").symlink_to(model / "m.py")
    path = pack("m", "base_handler", "1", extra_files="extra")
    assert zipfile.ZipFile(path).read("link.txt") == Path("m.py").read_bytes()
    Path("extra/sub/up").symlink_to(model / "extra")
    with pytest.raises(MissingInput, match="links to a folder above it"):
        pack("m", "base_handler", "1", extra_files="extra", force=True)


def test_odd_files_in_a_folder_are_skipped_but_not_those_named(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("extra/gone").symlink_to("nowhere")
    Path("extra/self").symlink_to("self")
    os.mkfifo("extra/sub/pipe")
    path = pack("m", "base_handler", "1", extra_files="extra")
    assert zipfile.ZipFile(path).namelist() == [".hidden", "labels.json", "sub/deep.txt", MANIFEST]
    assert "extra/gone is left out: it links to a missing file." in caplog.messages
    assert "extra/self is left out: it links to itself." in caplog.messages
    assert "extra/sub/pipe is left out: it is no plain file." in caplog.messages
    for name, text in (("gone", "links to a missing file"), ("sub/pipe", "no plain file")):
        with pytest.raises(MissingInput, match=text):
            pack("n", "base_handler", "1", extra_files=f"extra/{name}")


def test_no_archive_keeps_programs_executable(model: Path) -> None:
    Path("extra/sub/tool").write_text("#!/bin/sh\n")
    Path("extra/sub/tool").chmod(0o750)
    path = pack("m", "h.py", "1", extra_files="extra", archive_format="no-archive")
    assert (path / "sub/tool").stat().st_mode & 0o111 == 0o110
    assert (path / "h.py").stat().st_mode & 0o111 == 0


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


def test_one_name_twice(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder, text in (("a", "one"), ("b", "one"), ("c", "two")):
        Path(folder).mkdir()
        Path(folder, "config.json").write_text(text)
    path = pack("m", "base_handler", "1", extra_files="a/config.json,b")
    assert zipfile.ZipFile(path).namelist() == ["config.json", MANIFEST]
    with pytest.raises(Collision, match=r"a/config.json and c/config.json differ.*--last-wins"):
        pack("n", "base_handler", "1", extra_files="a,c")
    assert not Path("n.mar").exists()
    with caplog.at_level(logging.WARNING):
        path = pack("n", "base_handler", "1", extra_files="a,c", last_wins=True)
    assert zipfile.ZipFile(path).read("config.json") == b"two"
    assert "c/config.json replaces a/config.json" in caplog.text


def test_a_file_where_a_folder_is(model: Path) -> None:
    Path("clash").mkdir()
    Path("clash/sub").write_text("a file")
    with pytest.raises(Collision, match="a file and a folder"):
        pack("m", "base_handler", "1", extra_files="extra,clash")


def test_old_manifest_and_old_archive_are_left_out(
    model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Path("extra/MAR-INF").mkdir()
    Path("extra/MAR-INF/MANIFEST.json").write_text("{}")
    first = pack("m", "base_handler", "1", extra_files="extra", export_path="extra")
    before = zipfile.ZipFile(first).namelist()
    pack("m", "base_handler", "1", extra_files="extra", export_path="extra", force=True)
    assert zipfile.ZipFile(first).namelist() == before
    assert before.count(MANIFEST) == 1
    assert "extra/m.mar is left out" in caplog.text


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
    assert manifest_of(path)["model"]["modelVersion"] == "2"


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
