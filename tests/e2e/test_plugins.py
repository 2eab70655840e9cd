"""The example plugin as pip would install it, in a real server; and one that stops the start."""

from __future__ import annotations

import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import MARS, Server, archive, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
EXAMPLE = Path(__file__).parents[2] / "examples" / "plugins" / "execution_parameters"
GROUP = "torchserve_py.endpoints"


def install(site: Path, source: str, name: str, entry: str, value: str) -> None:
    """Put a module and its dist-info into a folder, without pip and its network."""
    module = name.replace("-", "_")
    info = site / f"{module}-0.1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{module}.py").write_text(source)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{entry} = {value}\n")


def test_the_example_answers_from_the_servers_settings(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((entry, value),) = project["entry-points"][GROUP].items()
    source = (EXAMPLE / "execution_parameters.py").read_text()
    install(tmp_path, source, project["name"], entry, value)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = make_server(max_request_size=20_000_000)
    archive(server.store, "echo", MARS / "echo.py")

    server.start("--models", "echo.mar")

    until(lambda: server.ready("echo"))
    answer = server.ask(0, "GET", "/execution-parameters", Authorization="")
    assert answer.status == 200
    workers = server.manage("GET", "/models/echo").json[0]["maxWorkers"]
    assert answer.json == {
        "MaxConcurrentTransforms": workers,
        "BatchStrategy": "MULTI_RECORD",
        "MaxPayloadInMB": 19,
    }
    line = f"GET /execution-parameters from {project['name']} 0.1.0, entry point {entry}"
    assert line in server.log("ts_log")
    until(lambda: '"GET /execution-parameters HTTP/1.1" 200' in server.log("access_log"))


def test_a_plugin_that_fails_stops_the_start_with_its_name(
    make_server: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "import no_such_module", "bad-one", "e", "bad_one:endpoints")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = make_server()
    done = subprocess.run(
        server.command("--start", "--foreground"),
        cwd=server.folder,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert (
        f"Invalid configuration: bad-one 0.1.0, entry point e of {GROUP}: bad_one:endpoints "
        "failed: ModuleNotFoundError: No module named 'no_such_module'. Mend or uninstall it."
    ) in done.stdout
