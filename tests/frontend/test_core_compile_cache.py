"""Where torch.compile keeps what it makes: one folder for each model, found again at a restart."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.core_rig import Site
from ts_frontend.config import Config
from ts_frontend.core.archive import Archive
from ts_frontend.core.compile_cache import INDUCTOR, TRITON, compile_environment
from ts_frontend.core.model_yaml import read_model_yaml

COMPILED = "pt2:\n  compile:\n    enable: true\n"


def unpacked(folder: Path, weights: bytes = bytes(2 << 20), **files: str) -> Archive:
    """An archive that was unpacked into ``folder``."""
    for name, text in {"handler.py": "def handle(): ...\n", **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "weights.pt").write_bytes(weights)
    return Archive("m.mar", folder, folder, {}, source=folder.parent / "m.mar")


def asked(tmp_path: Path, archive: Archive, **env: str) -> dict[str, str]:
    return compile_environment(Config(compile_cache=tmp_path / "cache"), {}, archive, env)


def test_the_same_files_have_the_same_folder(tmp_path: Path) -> None:
    one = unpacked(tmp_path / "one", **{"MAR-INF/MANIFEST.json": '{"createdOn": 1}'})
    again = unpacked(
        tmp_path / "two",
        weights=os.urandom(2 << 20),  # trained anew: the graph is the same
        **{"MAR-INF/MANIFEST.json": '{"createdOn": 2}', "__pycache__/handler.pyc": "x"},
    )
    variables = asked(tmp_path, one)
    assert variables == asked(tmp_path, again)
    folder = Path(variables[INDUCTOR])
    assert folder.parent == tmp_path / "cache"
    assert folder.is_dir()
    assert variables[TRITON] == str(folder / "triton")


@pytest.mark.parametrize(
    "changed", [{"handler.py": "other"}, {"more.py": ""}, {"model-config.yaml": "a: 1"}]
)
def test_other_files_have_another_folder(tmp_path: Path, changed: dict[str, str]) -> None:
    one = unpacked(tmp_path / "one")
    other = unpacked(tmp_path / "two", **changed)
    assert asked(tmp_path, one)[INDUCTOR] != asked(tmp_path, other)[INDUCTOR]


def test_a_folder_in_place_keeps_its_cache_while_it_is_worked_on(tmp_path: Path) -> None:
    source = tmp_path / "model"
    unpacked(source)
    archive = Archive("model", source, tmp_path / "root", {}, source=source)
    before = asked(tmp_path, archive)
    (source / "handler.py").write_text("edited")
    assert asked(tmp_path, archive) == before


def test_what_the_user_chose_stays(tmp_path: Path) -> None:
    archive = unpacked(tmp_path / "one")
    assert asked(tmp_path, archive, **{INDUCTOR: "/mine"}) == {}
    assert list(asked(tmp_path, archive, **{TRITON: "/mine"})) == [INDUCTOR]
    assert not (tmp_path / "mine").exists()


def test_a_place_that_cannot_be_used_costs_the_cache_only(tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").write_text("a file")
    assert asked(tmp_path, unpacked(tmp_path / "one")) == {}
    assert "set compile_cache to a folder" in caplog.text


def test_a_place_that_others_may_write_to_is_not_used(tmp_path: Path, caplog) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    assert asked(tmp_path, unpacked(tmp_path / "one")) == {}
    assert "others may write to it" in caplog.text


def test_what_was_not_used_for_a_month_goes(tmp_path: Path) -> None:
    old, young = tmp_path / "cache" / "old", tmp_path / "cache" / "young"
    for folder, days in ((old, 31), (young, 29)):
        folder.mkdir(parents=True, mode=0o700)
        os.utime(folder, (time.time() - days * 86400,) * 2)
    asked(tmp_path, unpacked(tmp_path / "one"))
    assert (old.exists(), young.exists()) == (False, True)


@pytest.mark.parametrize(
    ("pt2", "compiles"),
    [
        ("pt2: inductor", True),
        ("pt2: {backend: inductor}", True),
        ("pt2: {compile: {enable: true, backend: inductor}}", True),
        ("pt2: {compile: {enable: false}}", False),
        ("pt2: {compile: true}", False),
        ("pt2: {export: {aot_compile: true}}", False),
        ("handler: {a: 1}", False),
    ],
)
def test_the_yaml_says_whether_a_model_is_compiled(tmp_path: Path, pt2, compiles) -> None:
    (tmp_path / "model-config.yaml").write_text(pt2)
    assert read_model_yaml(tmp_path / "model-config.yaml").compiles is compiles


async def test_workers_of_a_compiled_model_share_the_folder(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    async with Site(tmp_path, compile_cache=cache) as site:
        await site.register(site.model("plain"))
        await site.register(site.model("fast", yaml=COMPILED), workers=2)
        plain, *fast = [spec.env for spec in site.backend.specs]
        assert INDUCTOR not in plain
        assert {env[INDUCTOR] for env in fast} == {str(next(cache.iterdir()))}
