"""Which rows of the reference a test stands for: ``@row("2.2 max_request_size")`` names it so, and
`rows` lists the names of a module, for a test that none is missing."""

from __future__ import annotations

from types import ModuleType

import pytest


def row(*names: str) -> pytest.MarkDecorator:
    """Run the test once for each row; it may take the row's name as ``table_row``."""
    return pytest.mark.parametrize("table_row", names, indirect=True)


def rows(module: ModuleType, section: str) -> set[str]:
    """What the module's tests say they stand for in one section, without its number."""
    marks = [
        mark
        for name, test in vars(module).items()
        if name.startswith("test_")
        for mark in getattr(test, "pytestmark", ())
        if mark.name == "parametrize" and mark.args[0] == "table_row"
    ]
    names = [name for mark in marks for name in mark.args[1]]
    return {name.removeprefix(f"{section} ") for name in names if name.startswith(f"{section} ")}
