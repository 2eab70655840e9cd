"""What `pack` writes: layouts, manifest, alignment, same bytes every time."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import sys
import tarfile
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ts_archiver import BadOption, pack, writers
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
