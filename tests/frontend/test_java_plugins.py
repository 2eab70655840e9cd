"""plugins_path and --plugins-path: what was there for the JVM is named at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from ts_frontend.config import load_config

ENDPOINTS, SNAPSHOTS = "torchserve_py.endpoints", "torchserve_py.snapshots"


@pytest.fixture
def cwd(tmp_path: Path) -> Path:
    for name in ("store", "plugins", "empty"):
        (tmp_path / name).mkdir()
    return tmp_path


def remarks(cwd: Path, path: str) -> list[str]:
    """The warnings of a start with --plugins-path, less the one that all of them get."""
    warnings = load_config({"model_store": "store", "plugins_path": path}, {}, cwd).warnings
    general, *rest = warnings
    assert general == (
        "--plugins-path: plugins_path: accepted, no effect: "
        "Java plugins cannot run here; Python packages take their place, see docs/plugins.md"
    )
    prefix = "--plugins-path: plugins_path: "
    assert all(one.startswith(prefix) and one.endswith("see docs/plugins.md") for one in rest)
    return [one.removeprefix(prefix) for one in rest]


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("endpoint-plugins-1.0.jar", ENDPOINTS),
        ("ExecutionParameters.JAR", ENDPOINTS),
        ("serving-sdk-dynamodb.jar", SNAPSHOTS),
        ("ddb.jar", SNAPSHOTS),
        ("my-snapshot.jar", SNAPSHOTS),
        ("endpoint-and-snapshot.jar", f"{ENDPOINTS} or {SNAPSHOTS}"),
        ("other.jar", f"{ENDPOINTS} or {SNAPSHOTS}"),
    ],
)
def test_an_archive_is_named_with_what_takes_its_place(cwd: Path, name: str, groups: str) -> None:
    jar = cwd / "plugins" / name
    jar.touch()

    for path in (str(jar), f"plugins/{name}", "plugins", "plugins/", "plugins/*"):
        (remark,) = remarks(cwd, path)
        assert remark == (
            f"{jar} is not loaded: a Python package with the entry point {groups} "
            "takes its place, see docs/plugins.md"
        )


def test_every_archive_has_its_own_warning(cwd: Path) -> None:
    for name in ("b.jar", "a.jar", "readme.txt"):
        (cwd / "plugins" / name).touch()

    told = remarks(cwd, "plugins:empty")

    assert [one.partition(" is not loaded")[0] for one in told[:2]] == [
        str(cwd / "plugins" / name) for name in ("a.jar", "b.jar")
    ]
    assert told[2].startswith("there is no Java archive in empty; ")


@pytest.mark.parametrize(
    ("path", "remark"),
    [
        ("missing", "missing does not exist"),
        ("missing.jar", "missing.jar does not exist"),
        ("empty/*.jar", "empty/*.jar matches no Java archive"),
        ("empty", "there is no Java archive in empty"),
        ("store.txt", "store.txt is no Java archive"),
    ],
)
def test_a_path_without_archives_is_told(cwd: Path, path: str, remark: str) -> None:
    (cwd / "store.txt").touch()
    assert remarks(cwd, path) == [f"{remark}; for plugins in Python see docs/plugins.md"]
