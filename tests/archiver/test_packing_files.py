"""Which files `pack` takes, and under which names: folders, links, odd files, one name twice."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path

import pytest

from ts_archiver import Collision, MissingInput, pack

MANIFEST = "MAR-INF/MANIFEST.json"


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
