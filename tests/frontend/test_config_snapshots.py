"""The last snapshot as a source of settings: from which store, and what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest

from tests.frontend.test_cli_start import install as install_server
from ts_frontend import cli
from ts_frontend.config import Config, ConfigError, load_config
from ts_frontend.snapshot_store import GROUP

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "snapshot_sqlite"
MODELS = 'model_snapshot={"models": {}, "modelCount": 1}'
NAME = "20240101000000000-shutdown.cfg"


class Shelf:
    """A store of a plugin."""

    text = f"model_store=store\njob_queue_size=7\n{MODELS}\n"

    def save(self, name: str, text: str) -> None: ...

    def last(self) -> tuple[str, str] | None:
        return (NAME, self.text)


class Empty(Shelf):
    def last(self) -> tuple[str, str] | None:
        return None


class Broken(Shelf):
    def last(self) -> tuple[str, str] | None:
        raise TimeoutError("no answer from the database")


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "config.properties").write_text("model_store=store\njob_queue_size=1\n")
    return tmp_path


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    found = EntryPoints(
        EntryPoint(kind.__name__.lower(), f"{__name__}:{kind.__name__}", GROUP)
        for kind in (Shelf, Empty, Broken)
    )
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


def put(cwd: Path, *lines: str) -> Path:
    path = cwd / "logs" / "config" / NAME
    path.parent.mkdir(parents=True)
    path.write_text("\n".join(lines))
    return path


def test_a_snapshot_that_is_not_whole_is_refused(cwd: Path) -> None:
    path = put(cwd, "model_store=store")
    with pytest.raises(ConfigError, match=rf"snapshot {path} is not complete: .*--ncs"):
        load_config({}, {}, cwd)


def test_a_snapshot_that_cannot_be_read_is_named(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(cwd, "x")

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(ConfigError, match=rf"Permission denied: '{path}'; --ncs starts without it"):
        load_config({}, {}, cwd)


def test_a_malformed_snapshot_is_named_with_its_line(cwd: Path) -> None:
    path = put(cwd, "a=1", "vmargs=\\u12")
    with pytest.raises(ConfigError, match=rf"{path}, line 2: "):
        load_config({}, {}, cwd)


@pytest.mark.usefixtures("plugins")
def test_a_store_is_named_by_the_variable_or_by_the_file_beside(cwd: Path) -> None:
    for store in ("shelf", "empty"):
        config = load_config({}, {"TS_SNAPSHOT_STORE": store}, cwd)
        assert config.job_queue_size == {"shelf": 7, "empty": 1}[store]
        assert config.snapshot_store == store
    with pytest.raises(ConfigError, match="several snapshot stores are installed"):
        load_config({}, {}, cwd)
    (cwd / "config.properties").write_text("model_store=store\nsnapshot_store=shelf\n")
    config = load_config({}, {}, cwd)
    assert (config.job_queue_size, config.snapshot_store, config.source) == (7, "shelf", None)
    assert config.restored_from == f"{NAME} of snapshot store shelf"
    assert dict(config.written)["snapshot_store"] == "shelf"
    assert "config.properties is not read" in config.warnings[0]


@pytest.mark.usefixtures("plugins")
def test_a_store_that_fails_is_named_and_ncs_asks_none(cwd: Path) -> None:
    env = {"TS_SNAPSHOT_STORE": "broken"}
    with pytest.raises(ConfigError, match=r"store broken \(.*TimeoutError: no answer.*--ncs"):
        load_config({}, env, cwd)
    assert load_config({"no_config_snapshots": True}, env, cwd).job_queue_size == 1


@pytest.mark.usefixtures("plugins")
def test_the_folder_can_be_told_to_stay(cwd: Path) -> None:
    put(cwd, "model_store=store", "job_queue_size=5", MODELS)
    assert load_config({}, {"TS_SNAPSHOT_STORE": "file"}, cwd).job_queue_size == 5


def test_a_malformed_file_beside_does_not_stop_a_start_from_a_snapshot(cwd: Path) -> None:
    put(cwd, "model_store=store", "job_queue_size=5", MODELS)
    (cwd / "config.properties").write_text("vmargs=\\u12\n")
    assert load_config({}, {}, cwd).job_queue_size == 5


@pytest.mark.usefixtures("plugins")
def test_the_code_of_others_runs_behind_the_fork(
    cwd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plugin may start threads, which a fork would lose."""
    monkeypatch.chdir(cwd)
    monkeypatch.setattr(tempfile, "tempdir", str(cwd))
    monkeypatch.setenv("TS_SNAPSHOT_STORE", "shelf")
    configs: list[Config] = []

    def run(config: Config, **_: object) -> int:
        configs.append(config)
        return 0

    loaded_before_the_fork = []

    def launch(serve: object) -> int:
        loaded_before_the_fork.append(bool(configs))
        return int(serve(lambda: None))  # type: ignore[operator]

    install_server(monkeypatch, run)
    monkeypatch.setattr(cli, "launch", launch)
    monkeypatch.setattr(cli, "load_config", lambda *args: load_config(*args))
    assert cli.start({}) == 0
    assert loaded_before_the_fork == [False]
    assert configs[0].job_queue_size == 7
    monkeypatch.setenv("TS_SNAPSHOT_STORE", "broken")
    assert cli.start({}) == 1


CODE = """
import sys
from pathlib import Path
from ts_frontend.config import load
from ts_frontend.snapshot_store import open_store

folder = Path.cwd()
opened = open_store(None, folder)
assert opened.title == "store sqlite (snapshot_sqlite:SqliteStore of snapshot-sqlite)", opened
assert opened.store.last() is None
for number in range(10, 70):
    text = f"model_store=.\\njob_queue_size={number}\\nmodel_snapshot={{modelCount: 1}}"
    opened.store.save(f"202401010000000{number}-snapshot.cfg", text)
try:
    opened.store.save("20240101000000069-snapshot.cfg", "")
except FileExistsError:
    pass
else:
    raise AssertionError("taken twice")
loaded = load({}, {}, folder)
assert loaded.config.job_queue_size == 69
print(loaded.origins["job_queue_size"])
"""


def test_the_example_is_found_by_its_entry_point(tmp_path: Path) -> None:
    """As pip would install it: the module, and the entry points in its dist-info."""
    site = tmp_path / "site"
    info = site / "snapshot_sqlite-0.1.0.dist-info"
    info.mkdir(parents=True)
    (site / "snapshot_sqlite.py").write_text((EXAMPLE / "snapshot_sqlite.py").read_text())
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: snapshot-sqlite\nVersion: 0.1.0\n")
    pyproject = (EXAMPLE / "pyproject.toml").read_text()
    group, line = f'[project.entry-points."{GROUP}"]\n', 'sqlite = "snapshot_sqlite:SqliteStore"\n'
    assert group + line in pyproject
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nsqlite = snapshot_sqlite:SqliteStore\n")
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "SNAPSHOT_SQLITE_FILE": str(tmp_path / "db")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "20240101000000069-snapshot.cfg of snapshot store sqlite, line 2\n"
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600
