"""Reading requirements files: what pip is told, and when two of them are the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.wheels import make_wheel
from ts_frontend.core.requirements import BadRequirements, read_requirements


def write(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def test_nested_files_are_unfolded_and_comments_dropped(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        requirements="# all\na==1  # one\n-r more.txt\n--requirement=last.txt\nb[x] >= \\\n 2\n",
        more="\ufeffc; python_version < '3.0'\n-rlast.txt\n",
        last="--extra-index-url https://x/simple\n",
    )
    found = read_requirements(folder, "requirements.txt")
    assert found.lines == [
        "a==1",
        "c; python_version < '3.0'",
        "--extra-index-url https://x/simple",
        "--extra-index-url https://x/simple",
        "b[x] >=  2",
    ]
    assert [str(one) for one in found.named] == [
        "a==1",
        'c; python_version < "3.0"',
        "b[x]>=2",
    ]


def test_paths_are_beside_the_model_and_count_by_their_content(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "m",
        requirements="./pkg[extra] ; python_version > '3'\n-e ./pkg\nw-1-py3-none-any.whl\n"
        "-c limits.txt\n-f links\n-f https://x/y\n",
        limits="a<2\n",
    )
    (folder / "pkg").mkdir()
    (folder / "pkg" / "setup.py").write_text("1")
    make_wheel(folder, "w", "1")
    (folder / "links").mkdir()
    found = read_requirements(folder, "requirements.txt")
    assert found.lines == [
        f"{folder}/pkg[extra] ; python_version > '3'",
        f"{folder}/pkg",
        f"{folder}/w-1-py3-none-any.whl",
        f"-c {folder}/limits.txt",
        f"-f {folder}/links",
        "-f https://x/y",
    ]
    assert str(tmp_path) not in found.identity
    moved = shutil.copytree(folder, tmp_path / "elsewhere")
    assert read_requirements(moved, "requirements.txt").identity == found.identity
    for path in ("pkg/setup.py", "limits.txt"):
        (moved / path).write_text("2")
        again = read_requirements(moved, "requirements.txt").identity
        assert again != found.identity
        (moved / path).write_bytes((folder / path).read_bytes())


@pytest.mark.parametrize("name", ["wheels", "wheelhouse"])
def test_a_folder_of_wheels_counts_by_its_content(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path / "m", requirements="a\n")
    (folder / name).mkdir()
    assert read_requirements(folder, "requirements.txt").wheels is None
    make_wheel(folder / name, "a", "1")
    one = read_requirements(folder, "requirements.txt")
    assert one.wheels == folder / name
    make_wheel(folder / name, "a", "2")
    assert read_requirements(folder, "requirements.txt").identity != one.identity


def test_what_brings_a_second_ts_is_skipped(tmp_path: Path) -> None:
    lines = "torchserve==0.12\nTorch_Model.Archiver\ntorch-workflow-archiver>0\ntorchmetrics\n"
    folder = write(tmp_path / "m", requirements=f"{lines}torchserve-nightly\n")
    found = read_requirements(folder, "requirements.txt")
    assert found.lines == ["torchmetrics"]
    assert len(found.skipped) == 4


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("-r none.txt", "The archive has no file none.txt that requirements.txt names."),
        ("-c none.txt", "The archive has no file none.txt that requirements.txt names."),
        ("-r requirements.txt", "requirements.txt includes itself."),
        ("./a.whl", "requirements.txt asks for ./a.whl, and the archive has no such file; "),
        ("\udcff", "requirements.txt is no text in UTF-8: "),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, text: str, cause: str) -> None:
    folder = write(tmp_path / "m")
    (folder / "requirements.txt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BadRequirements) as caught:
        read_requirements(folder, "requirements.txt")
    assert str(caught.value).startswith(cause)
    with pytest.raises(BadRequirements, match=r"^The archive has no file other\.txt\.$"):
        read_requirements(folder, "other.txt")
