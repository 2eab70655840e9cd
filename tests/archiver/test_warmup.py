"""``--warmup``: a folder of sample requests that keeps its place in the archive."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from ts_archiver import PackError, pack
from ts_archiver.cli import archiver_command, torch_model_archiver_command


@pytest.fixture
def samples(model: Path) -> Path:
    """A folder beside the model's files, under another name than the archive gives it."""
    folder = model / "requests"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.json").write_text('{"body": [1]}')
    (folder / "kitten.jpg").write_bytes(b"\xff\xd8")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "__pycache__" / "x.pyc").write_bytes(b"x")
    return folder


def names(path: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(path).namelist() if not name.startswith("MAR-INF")]


def test_the_folder_is_kept_as_warmup(samples: Path) -> None:
    path = pack("m", "base_handler", "1", warmup=samples, extra_files="extra/labels.json")
    assert names(path) == ["labels.json", "warmup/a.json", "warmup/kitten.jpg"]


def test_the_command_has_the_option(samples: Path) -> None:
    words = ["--model-name", "m", "-v", "1", "--handler", "base_handler"]
    done = CliRunner().invoke(archiver_command, [*words, "--warmup", "requests"])
    assert done.exit_code == 0, done.output
    assert names(Path("m.mar")) == ["warmup/a.json", "warmup/kitten.jpg"]
    refused = CliRunner().invoke(torch_model_archiver_command, [*words, "--warmup", "requests"])
    assert refused.exit_code == 2


@pytest.mark.parametrize(
    ("folder", "cause"),
    [
        ("nowhere", "nowhere does not exist. --warmup needs a folder of sample requests."),
        ("h.py", "h.py is no folder."),
        ("empty", "empty holds no sample requests. Put one in, or drop --warmup."),
        ("extra", "extra/sub/deep.txt lies in a folder of extra. Put samples side by side."),
    ],
)
def test_what_is_no_folder_of_samples_is_refused(model: Path, folder: str, cause: str) -> None:
    (model / "empty").mkdir()
    (model / "empty" / ".keep").touch()
    with pytest.raises(PackError) as error:
        pack("m", "base_handler", "1", warmup=folder)
    assert cause in str(error.value)
    assert not Path("m.mar").exists()
