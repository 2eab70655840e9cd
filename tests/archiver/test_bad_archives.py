"""Archives that are broken, something else, or attacks: one clear line, and nothing written."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import stat
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import NoReturn

import pytest

from ts_archiver import (
    ArchiveError,
    CorruptArchive,
    Limits,
    ManifestError,
    NotAnArchive,
    ReadError,
    TooLarge,
    UnsafeArchive,
    extract,
    inspect,
    pack,
    read_manifest,
)


def refused(path: Path, error: type[ArchiveError], text: str, **limits: float) -> None:
    """`extract` raises ``error`` with ``text`` in one line and leaves the folder as it was."""
    root = path.parent
    before = sorted(root.rglob("*"))
    with pytest.raises(error, match=text) as caught:
        extract(path, root / "out", limits=Limits(**limits))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert sorted(root.rglob("*")) == before


def zip_with(path: Path, *entries: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def tgz_with(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for info in members:
            tar.addfile(info, io.BytesIO(bytes(info.size)) if info.isreg() else None)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = size
    info.linkname = "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
    return info


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "is no model archive but empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a web page"),
        (b"<?xml version='1.0'?><Error>", "XML text"),
        (gzip.compress(b"x"), r"a gzip file.*\.tar\.gz"),
        (bytes(257) + b"ustar" + bytes(300), "a tar file without gzip"),
        (b"\x80\x02}q\x00.", "a pickle"),
        (b"RIFFxxxxWEBP", "something that starts with b'RIFFxxxx'"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, data: bytes, text: str) -> None:
    path = tmp_path / "m.mar"
    path.write_bytes(data)
    refused(path, NotAnArchive, text)


def test_missing_and_unreadable(tmp_path: Path) -> None:
    refused(tmp_path / "no.mar", ReadError, r"can't read .*no\.mar: No such file")
    with pytest.raises(ReadError, match="No such file"):
        read_manifest(tmp_path / "no.mar")


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_truncated_anywhere(model: Path, tmp_path: Path, archive_format: str) -> None:
    whole = pack("m", "h.py", "1", serialized_file="w.pt", archive_format=archive_format)
    data = whole.read_bytes()
    folder = tmp_path / "cut"
    folder.mkdir()
    path = folder / whole.name
    for length in random.Random(1).sample(range(1, len(data)), 25):
        path.write_bytes(data[:length])
        refused(path, ReadError, "Copy it again|no model archive")


@pytest.mark.parametrize("archive_format", ["default", "zip-store", "tgz"])
def test_flipped_bits_never_change_a_file_unnoticed(
    model: Path, tmp_path: Path, archive_format: str
) -> None:
    whole = pack("m", "h.py", "1", serialized_file="w.pt", archive_format=archive_format)
    data = whole.read_bytes()
    extract(whole, tmp_path / "good")
    good = {p.relative_to(tmp_path / "good"): p.read_bytes() for p in files_in(tmp_path / "good")}
    path = tmp_path / whole.name
    chosen = random.Random(2)
    for turn in range(60):
        position = chosen.randrange(len(data))
        path.write_bytes(
            data[:position] + bytes([data[position] ^ (1 << turn % 8)]) + data[position + 1 :]
        )
        target = tmp_path / f"turn{turn}"
        try:
            extract(path, target, verify=True)
        except ArchiveError:
            assert not target.exists()
            continue
        # Padding, dates and the like may change; contents may not.
        assert {p.relative_to(target): p.read_bytes() for p in files_in(target)} == good


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_wrong_checksum_of_a_stored_file(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.pt", b"GOODDATA" * 1000)
    path.write_bytes(path.read_bytes().replace(b"GOODDATA", b"EVILDATA", 1))
    refused(path, CorruptArchive, r"the checksum of w\.pt does not fit")
    with pytest.raises(CorruptArchive):
        inspect(path)


OUTSIDE = [
    "../evil",
    "a/../../evil",
    "/tmp/evil",
    "..",
    "a\\..\\..\\evil",
    "\\evil",
    "C:\\evil",
    "c:evil",
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_zip_names_outside(tmp_path: Path, name: str) -> None:
    path = zip_with(tmp_path / "m.mar", ("ok.txt", b"x"), (name, b"evil"))
    refused(path, UnsafeArchive, "absolute path|leads out of its folder")


@pytest.mark.parametrize("name", ["m/../../evil", "/tmp/evil", "../evil"])
def test_tar_names_outside(tmp_path: Path, name: str) -> None:
    path = tgz_with(tmp_path / "m.tar.gz", member("m/ok.txt"), member(name))
    refused(path, UnsafeArchive, "absolute path|leads out of its folder")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_tar_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    path = tgz_with(tmp_path / "m.tar.gz", member("m/ok"), member("m/link", kind))
    refused(path, UnsafeArchive, "link is a link or a device")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_links_and_devices(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w") as archive:
        info = zipfile.ZipInfo("link")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
        archive.writestr("link/evil", "through it")
    refused(path, UnsafeArchive, "link is a link or a device")


def test_encrypted(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "m.mar", ("h.py", b"x"))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, UnsafeArchive, "h.py is encrypted")


def test_unknown_compression(tmp_path: Path) -> None:
    path = tmp_path / "m.mar"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("h.py", "x")
    refused(path, CorruptArchive, "compressed by method 12. Use store or deflate")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_duplicates_in_zip(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "m.mar", ("a", b"one"), ("./a", b"one"))
    extract(path, tmp_path / "same")
    assert (tmp_path / "same" / "a").read_bytes() == b"one"
    for second in (b"two", b"on", b"one!", b""):
        path = zip_with(tmp_path / "m.mar", ("a", b"one"), ("a", second))
        refused(path, UnsafeArchive, "a twice, with different contents")
        with pytest.raises(UnsafeArchive):
            inspect(path)


@pytest.mark.parametrize(
    "names", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a/b")], ids=lambda names: "+".join(names)
)
def test_file_and_folder_of_one_name(tmp_path: Path, names: tuple[str, str]) -> None:
    path = zip_with(tmp_path / "m.mar", (names[0], b"x"), (names[1], b"y"))
    refused(path, UnsafeArchive, "collides with another entry|a file and a folder")


def test_zip_bomb_by_ratio(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "m.mar", ("zeros", bytes(3_000_000)))
    refused(path, TooLarge, "more than 50 times its own size", max_ratio=50, ratio_from=1 << 20)
    extract(path, tmp_path / "fine", limits=Limits(max_ratio=50))  # small: no harm
    extract(path, tmp_path / "too", limits=Limits(max_ratio=5000, ratio_from=1))


def test_total_and_number_are_bounded(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "m.mar", ("a", os.urandom(600)), ("b", os.urandom(600)))
    refused(path, TooLarge, "unpacks to more than 1000 bytes", max_total_bytes=1000)
    refused(path, TooLarge, "more than 1 entries", max_entries=1)
    tar = tgz_with(tmp_path / "m.tar.gz", member("m/a", size=600), member("m/b", size=600))
    refused(tar, TooLarge, "unpacks to more than 1000 bytes", max_total_bytes=1000)
    refused(tar, TooLarge, "more than 1 entries", max_entries=1)
    with pytest.raises(TooLarge):
        inspect(tar, limits=Limits(max_total_bytes=1000))


def test_tar_bomb_by_ratio(tmp_path: Path) -> None:
    path = tgz_with(tmp_path / "m.tar.gz", member("m/zeros", size=3_000_000))
    refused(path, TooLarge, "more than 50 times its own size", max_ratio=50, ratio_from=1 << 20)


def test_tar_header_bomb(tmp_path: Path) -> None:
    """A pax header is read into memory whole: here 64 MB of it in 64 KB of file."""
    path = tmp_path / "m.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        info = member("m/first", size=9_000_000)  # earlier data must not pay for headers
        file.write(info.tobuf() + bytes(9_000_000 + -9_000_000 % 512))
        header = tarfile.TarInfo("./@PaxHeader")
        header.type = tarfile.XHDTYPE
        header.size = 64_000_000
        file.write(header.tobuf() + bytes(64_000_000))
    refused(path, TooLarge, "header of an entry is too long")


def test_overlapping_entries(tmp_path: Path) -> None:
    """Many directory entries for one piece of data: the "better zip bomb"."""
    path = zip_with(tmp_path / "m.mar", ("a", bytes(100_000)))
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    directory = data[start:end]
    count = 100
    tail = struct.pack(
        "<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(directory) * count, start, 0
    )
    path.write_bytes(data[:start] + directory * count + tail)
    refused(path, UnsafeArchive, "entries overlap")


def test_size_that_lies(tmp_path: Path) -> None:
    """An entry that claims 10 bytes and inflates to 100,000 is cut at 10, and then refused."""
    path = zip_with(tmp_path / "m.mar", ("a", bytes(100_000)))
    data = bytearray(path.read_bytes())
    struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 10)
    path.write_bytes(data)
    refused(path, CorruptArchive, "is damaged")


@pytest.mark.parametrize("text", [b"{not json", b"[1, 2]", b"\xff\xfe", b"[" * 100_000])
def test_bad_manifest(tmp_path: Path, text: bytes) -> None:
    path = zip_with(tmp_path / "m.mar", ("MAR-INF/MANIFEST.json", text))
    refused(path, ManifestError, "MANIFEST.json")
    with pytest.raises(ManifestError):
        read_manifest(path)


def test_manifest_that_is_far_too_long(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "m.mar", ("MAR-INF/MANIFEST.json", b" " * (65 << 20)))
    with pytest.raises(ManifestError, match="68157440 bytes"):
        read_manifest(path)


def test_tgz_without_its_folder(tmp_path: Path) -> None:
    path = tgz_with(tmp_path / "m.tar.gz", member("MAR-INF/MANIFEST.json"))
    refused(path, CorruptArchive, "one folder around all files")


def test_tgz_damaged_between_files(tmp_path: Path) -> None:
    """tarfile takes a broken header for the end; what follows tells."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for name in ("m/a", "m/b"):
            tar.addfile(member(name, size=600), io.BytesIO(bytes(600)))
    data = bytearray(raw.getvalue())
    data[512 + 1024 + 5] ^= 0xFF  # in the header of m/b
    data[-5000:-4999] = b"x"
    path = tmp_path / "m.tar.gz"
    path.write_bytes(gzip.compress(bytes(data)))
    refused(path, CorruptArchive, "damaged")


def test_hashes_of_files_elsewhere_are_refused(tmp_path: Path) -> None:
    text = b'{"files": {"../../etc/passwd": {"sha256": "00"}}}'
    path = zip_with(tmp_path / "m.mar", ("MAR-INF/MANIFEST.json", text))
    with pytest.raises(UnsafeArchive):
        extract(path, tmp_path / "out", verify=True)
    assert not (tmp_path / "out").exists()


def test_interrupted_extraction_removes_the_target(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pack("m", "h.py", "1", serialized_file="w.pt")

    def interrupt(_fd: int, _position: int, _size: int) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr("ts_archiver.ziparchive._read_back", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_error_names_the_archive(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "resnet.mar", ("../evil", b""))
    refused(path, UnsafeArchive, re.escape(str(path)))
