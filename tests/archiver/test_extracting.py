"""What `extract`, `read_manifest` and `inspect` make of good archives, ours and TorchServe's."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ts_archiver import (
    CorruptArchive,
    ExtractFailed,
    extract,
    extract_hashed,
    inspect,
    pack,
    read_manifest,
    ziparchive,
)

# The layout of torch-model-archiver 0.12, made by hand.
THEIR_MANIFEST = {
    "createdOn": "24/11/2024 04:28:18",
    "runtime": "python",
    "model": {
        "modelName": "t",
        "serializedFile": "w.pt",
        "handler": "h.py",
        "modelFile": "m.py",
        "modelVersion": "1.0",
    },
    "archiverVersion": "0.12.0",
}
THEIR_FILES = {"w.pt": os.urandom(70_000), "m.py": b"class A: pass\n", "sub/b.txt": b"2\n"}


def their_mar(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in THEIR_FILES.items():
            archive.writestr(name, data)
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(THEIR_MANIFEST, indent=2))
    return path


def their_tgz(path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        text = json.dumps(THEIR_MANIFEST, indent=2).encode()
        for name, data in {**THEIR_FILES, "MAR-INF/MANIFEST.json": text}.items():
            info = tarfile.TarInfo(f"t/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "MANIFEST.json"
    }


@pytest.mark.parametrize("make", [their_mar, their_tgz])
def test_archives_of_torch_model_archiver(tmp_path: Path, make: object) -> None:
    path = their_mar(tmp_path / "t.mar") if make is their_mar else their_tgz(tmp_path / "t.tar.gz")
    assert read_manifest(path) == THEIR_MANIFEST
    assert extract(path, tmp_path / "out", verify=True) == THEIR_MANIFEST
    assert contents(tmp_path / "out") == THEIR_FILES
    assert read_manifest(tmp_path / "out") == THEIR_MANIFEST
    found = inspect(path)
    assert found.problems == ()
    assert {file.verdict for file in found.files} == {"unlisted"}


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz", "no-archive"])
def test_own_archives(model: Path, tmp_path: Path, archive_format: str) -> None:
    path = pack(
        "m", "h.py", "1", serialized_file="w.pt", extra_files="extra", archive_format=archive_format
    )
    out = tmp_path / "deep" / "out"
    manifest = extract(path, out, verify=True)
    assert manifest == read_manifest(path)
    assert contents(out) == {
        "h.py": (model / "h.py").read_bytes(),
        "w.pt": (model / "w.pt").read_bytes(),
        ".hidden": (model / "extra/.hidden").read_bytes(),
        "labels.json": (model / "extra/labels.json").read_bytes(),
        "sub/deep.txt": b"deep",
    }
    modes = {stat.S_IMODE(p.stat().st_mode) for p in out.rglob("*") if p.is_file()}
    assert modes == {0o600}
    folders = {stat.S_IMODE(p.stat().st_mode) for p in [out, *out.rglob("*")] if p.is_dir()}
    assert folders == {0o700}
    found = inspect(path)
    assert found.problems == ()
    assert {file.verdict for file in found.files} == {"ok"}


@pytest.mark.parametrize("available", [True, False])
def test_stored_files_with_and_without_kernel_copy(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available: bool
) -> None:
    data = os.urandom(3_000_001)
    (model / "big.pt").write_bytes(data)
    path = pack("m", "h.py", "1", serialized_file="big.pt")
    if not available:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif not hasattr(os, "copy_file_range"):
        pytest.skip("this system copies through the process")
    extract(path, tmp_path / "out")
    assert (tmp_path / "out" / "big.pt").read_bytes() == data


def test_kernel_copy_that_fails_half_way(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(source: int, target: int, count: int, *offsets: int) -> int:
        os.write(target, b"half")
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", fail, raising=False)
    path = pack("m", "h.py", "1", serialized_file="w.pt")
    extract(path, tmp_path / "out", verify=True)
    assert (tmp_path / "out" / "w.pt").read_bytes() == (model / "w.pt").read_bytes()


def test_kernel_copy_that_fails_behind_the_first_piece(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "copy_file_range"):
        pytest.skip("this system copies through the process")
    real, positions = os.copy_file_range, []

    def fail_later(source: int, target: int, count: int, start: int, position: int) -> int:
        positions.append(position)
        if len(positions) == 2:
            raise OSError(5, "Input/output error")
        return real(source, target, count, start, position)

    monkeypatch.setattr(os, "copy_file_range", fail_later)
    monkeypatch.setattr(ziparchive, "_PIECE", 1000)
    (model / "big.pt").write_bytes(data := os.urandom(3456))
    extract(pack("m", "h.py", "1", serialized_file="big.pt"), tmp_path / "out", verify=True)
    assert (tmp_path / "out" / "big.pt").read_bytes() == data
    assert {0, 1000, 2000, 3000} <= set(positions)


@pytest.mark.parametrize("archive_format", ["default", "tgz", "no-archive"])
def test_hashes_come_with_the_extraction(model: Path, tmp_path: Path, archive_format: str) -> None:
    (model / "big.pt").write_bytes(os.urandom(2_500_000))  # more than the hasher takes at once
    path = pack("m", "h.py", "1", serialized_file="big.pt", archive_format=archive_format)
    manifest, hashes = extract_hashed(path, tmp_path / "out")
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert hashes == {
        file.relative_to(tmp_path / "out").as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
    assert manifest == read_manifest(path)
    assert {name: one["sha256"] for name, one in manifest["files"].items()}.items() <= (
        hashes.items()
    )


def test_no_manifest_is_torchserves_default(tmp_path: Path) -> None:
    path = tmp_path / "x.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h.py", "")
        archive.writestr("empty/", "")
    assert extract(path, tmp_path / "out") == {"runtime": "python", "model": {}}
    assert (tmp_path / "out" / "empty").is_dir()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", [their_mar, their_tgz])
def test_of_several_manifests_the_last_one_counts(tmp_path: Path, make: object) -> None:
    """`unzip x.mar` and torch-model-archiver on what came out give such archives."""
    path = make(tmp_path / ("m.mar" if make is their_mar else "m.tar.gz"))  # type: ignore[operator]
    last = {"model": {"modelName": "again"}, "files": {"m.py": {"sha256": "0" * 64}}}
    data = json.dumps(last).encode()
    if make is their_mar:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("MAR-INF/MANIFEST.json", data)
    else:
        raw = gzip.decompress(path.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
            members = [(info, tar.extractfile(info)) for info in tar]
            with tarfile.open(path, "w:gz") as out:
                for info, file in members:
                    out.addfile(info, file)
                info = tarfile.TarInfo("t/MAR-INF/MANIFEST.json")
                info.size = len(data)
                out.addfile(info, io.BytesIO(data))
    assert read_manifest(path) == last
    assert inspect(path).manifest == last
    assert inspect(path).problems[0] == "m.py was changed"
    assert extract(path, tmp_path / "out") == last
    assert contents(tmp_path / "out") == THEIR_FILES
    assert json.loads((tmp_path / "out/MAR-INF/MANIFEST.json").read_bytes()) == last


def test_a_version_that_is_a_number_is_its_text(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "MAR-INF").mkdir(parents=True)
    for number in ("1.10", "1.0", "-0.0", "1e2"):
        text = json.dumps({"model": {"modelVersion": "?"}}).replace('"?"', number)
        (folder / "MAR-INF" / "MANIFEST.json").write_text(text)
        for found in (read_manifest(folder), inspect(folder).manifest):
            assert found == {"model": {"modelVersion": number}}


def test_target_must_be_empty(model: Path, tmp_path: Path) -> None:
    path = pack("m", "h.py", "1")
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine").write_text("keep")
    with pytest.raises(ExtractFailed, match="is not empty"):
        extract(path, target)
    assert (target / "mine").read_text() == "keep"
    (target / "mine").unlink()
    extract(path, target)


def test_tgz_made_by_tar_with_a_dot(tmp_path: Path) -> None:
    """`tar czf x.tar.gz -C folder .` puts "./" before every name, and TorchServe drops that."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in (".", "./sub"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name in ("./MAR-INF/MANIFEST.json", "./sub/a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 2
            tar.addfile(info, io.BytesIO(b"{}"))
    path = tmp_path / "x.tar.gz"
    path.write_bytes(gzip.compress(raw.getvalue()))
    assert extract(path, tmp_path / "out") == {}
    assert (tmp_path / "out" / "sub" / "a.txt").exists()


def test_verify_and_inspect_notice_changes(model: Path, tmp_path: Path) -> None:
    path = pack("m", "h.py", "1", serialized_file="w.pt", archive_format="no-archive")
    Path("m/w.pt").write_bytes(b"evil")
    Path("m/h.py").unlink()
    Path("m/new.py").write_text("")
    assert inspect(path).problems == (
        "h.py is missing",
        "w.pt was changed",
        "new.py was added",
    )
    with pytest.raises(CorruptArchive, match="is not what the manifest lists"):
        extract(path, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


_NAMES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\\\0"),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", "..") and name[1:2] != ":" and len(name.encode()) < 200)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    files=st.dictionaries(_NAMES, st.binary(max_size=6000), max_size=5),
    archive_format=st.sampled_from(["default", "zip-store", "tgz", "no-archive"]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], archive_format: str
) -> None:
    root = tmp_path_factory.mktemp("trip")
    source = root / "source"
    source.mkdir()
    for name, data in files.items():
        (source / name).write_bytes(data)
    path = pack(
        "m",
        "base_handler",
        "1",
        extra_files=[source],
        export_path=root / "out",
        archive_format=archive_format,
    )
    assert ziparchive  # the module under test for two of the formats
    extract(path, root / "unpacked", verify=True)
    assert contents(root / "unpacked") == files
    assert inspect(path).problems == ()
