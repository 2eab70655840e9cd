"""The repository keeps its promises: commands exist, targets exist, nothing names one machine."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MARKDOWN = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
MARKDOWN += [*sorted(ROOT.glob("examples/**/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
# Where a developer's or a build machine's files live; system paths such as /proc are fine.
MACHINE = re.compile(r"(?<![\w.$}>])/(?:home|root|Users|work|workspace|mnt|opt)/\w")
SKIPPED_DIRS = {"build", "dist", "logs", "__pycache__", "node_modules"}
TEXT = {".py", ".md", ".toml", ".yaml", ".yml", ".lua", ".properties", ".json", ".txt", ""}


@pytest.mark.parametrize("script", sorted(PROJECT["scripts"].items()), ids=lambda s: s[0])
def test_console_script_resolves(script: tuple[str, str]) -> None:
    module, _, function = script[1].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_drop_in_names_are_installed() -> None:
    assert {"torchserve", "torch-model-archiver", "torchserve-py", "archiver"} <= set(
        PROJECT["scripts"]
    )


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_commands_in_pages_are_targets(page: Path) -> None:
    used = set(re.findall(r"(?:^|`)make\s+([a-z][a-z-]*)", page.read_text(), re.MULTILINE))
    assert used <= _targets()


def test_readme_opens_with_the_two_commands() -> None:
    first = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert first is not None
    assert re.findall(r"^make (\w+)", first[1], re.MULTILINE) == ["demo", "test"]


def test_make_knows_how_to_run_each_target() -> None:
    for target in sorted(_targets()):
        done = subprocess.run(
            ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_ci_script_can_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert set(re.findall(r"^make ([a-z-]+)", script.read_text(), re.MULTILINE)) <= _targets()


def test_no_file_names_a_place_on_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _text_files()
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if MACHINE.search(line)
    ]
    assert found == []


def _targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _text_files() -> list[Path]:
    """Our sources. Walks the tree and asks no git: a source archive must pass as well."""
    files: list[Path] = []
    for folder, names, here in os.walk(ROOT):
        names[:] = [n for n in names if n not in SKIPPED_DIRS and (n == ".ci" or n[0] != ".")]
        files += [Path(folder, n) for n in here if Path(n).suffix in TEXT and n != "key_file.json"]
    return [path for path in files if path != Path(__file__).resolve() and path.is_file()]
