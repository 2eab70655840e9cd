"""docs/compatibility.md and the tests of this folder list the same quirks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "compatibility.md"


@pytest.mark.parametrize(("title", "folder"), [("Kept", "kept"), ("Mended", "mended")])
def test_each_row_has_its_test_and_each_test_its_row(title: str, folder: str) -> None:
    _, _, section = PAGE.read_text().partition(f"\n## {title} on purpose\n")
    rows = [line for line in section.partition("\n## ")[0].splitlines() if line.startswith("| ")]
    named = [re.findall(r"`(test_\w+)` \|$", row) for row in rows[2:]]  # behind head and rule
    text = "\n".join(path.read_text() for path in (HERE / folder).glob("test_*.py"))
    there = re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)
    assert all(len(names) == 1 for names in named)
    assert sorted(names[0] for names in named) == sorted(there)
