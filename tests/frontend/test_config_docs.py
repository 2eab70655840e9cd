"""docs/configuration.md and the sample file agree with the key table."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ts_frontend.config import Address, Config, load_config
from ts_frontend.keys import key_table
from ts_frontend.properties import parse

ROOT = Path(__file__).parents[2]
TABLE = key_table()


def rows() -> dict[str, list[str]]:
    """Key -> type, default, variable, effect, as the page tells them."""
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")
    keys = page[page.index("## Keys") : page.index("## Variables without a key")]
    found = re.findall(r"^\| `(\w+)` \| (.*) \|$", keys, re.MULTILINE)
    return {key: re.split(r" (?<!\\)\| ", rest) for key, rest in found}


def default_text(default: object) -> str:
    if default is None or default == {}:
        return "unset"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, float):
        return f"`{default:g}`"
    if isinstance(default, tuple) and not isinstance(default, Address):
        return "`" + ",".join(default).replace("|", "\\|") + "`"
    return f"`{default}`"


def test_every_key_is_on_the_page_once() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text("utf-8")

    assert set(rows()) == set(TABLE)
    assert [name for name in TABLE if page.count(f"\n| `{name}` |") != 1] == []


@pytest.mark.parametrize("name", TABLE)
def test_a_row_tells_the_truth(name: str) -> None:
    key = TABLE[name]

    _, default, env, effect = rows()[name]

    assert default == default_text(key.default)
    assert env == (f"`{key.env}`" if key.env else "none")
    if key.no_effect:
        assert effect == f"Accepted, no effect: {key.no_effect}."
    else:
        assert "no effect" not in effect


def test_the_sample_loads_without_a_warning(tmp_path: Path) -> None:
    sample = (ROOT / "config.properties").read_text("utf-8")
    (tmp_path / "model_store").mkdir()
    (tmp_path / "config.properties").write_text(sample)

    config = load_config({}, {}, tmp_path)

    assert config.warnings == ()
    assert config.inference_address == Config().inference_address
    assert config.model_store == tmp_path / "model_store"


def test_what_the_sample_comments_out_is_known_too() -> None:
    sample = (ROOT / "config.properties").read_text("utf-8")

    uncommented = re.sub(r"^#(?=\w+=)", "", sample, flags=re.MULTILINE)

    assert {entry.key for entry in parse(uncommented)} <= set(TABLE)
