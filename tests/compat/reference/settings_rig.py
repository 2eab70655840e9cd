"""What the tests of settings share: values from what a file says, and a whole server in this
process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from ts_frontend import server
from ts_frontend.config import Config, load_config
from ts_frontend.keys import key_table

Load = Callable[..., Config]


def read(**texts: str) -> dict[str, Any]:
    """Values of keys from their texts in a file."""
    return {name: key_table()[name].read(text) for name, text in texts.items()}


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load lines of a config.properties in a folder that has a model store; the first one given is
    line 2."""
    (tmp_path / "store").mkdir(exist_ok=True)

    def run(*lines: str, **environ: str) -> Config:
        (tmp_path / "config.properties").write_text("\n".join(["model_store=store", *lines]))
        return load_config({"no_config_snapshots": True}, environ, tmp_path)

    return run


def unix(path: Path) -> aiohttp.ClientSession:
    """A client of the listener on a socket file."""
    return aiohttp.ClientSession("http://x", connector=aiohttp.UnixConnector(str(path)))


@asynccontextmanager
async def whole_server(
    load: Load, folder: Path, *lines: str, **environ: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """The server of a file, without models; yields a client of its inference listener. The socket
    files of all three are in the folder."""
    names = ("inference", "management", "metrics")
    addresses = [f"{name}_address=unix:{folder}/{name}" for name in names]
    config = load(*addresses, *lines, **environ)
    async with server._running(config), unix(folder / "inference") as session:
        yield session
