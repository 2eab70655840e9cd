"""Models with packages and interpreters of their own, installed from wheels in their archives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from tests.e2e.conftest import MARS, Server, archive, until
from tests.wheels import make_wheel

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

BUILT = "Building the environment of model"


def model(server: Server, name: str, requirements: str, config: str = "", **wheels: str) -> str:
    """Archive the handler that tells its `thing`, with wheels of these packages."""
    work = server.folder / "work" / name
    for package, version in wheels.items():
        files = pure_yaml() if package == "pyyaml" else None
        make_wheel(work / "extra" / "wheels", package, version, files=files)
    (work / "requirements.txt").write_text(requirements)
    (work / "model-config.yaml").write_text(config)
    archive(
        server.store,
        name,
        MARS / "packages.py",
        *("--requirements-file", str(work / "requirements.txt")),
        *("--config-file", str(work / "model-config.yaml")),
        *("--extra-files", str(work / "extra")),
    )
    return f"{name}.mar"


def pure_yaml() -> dict[str, str]:
    """yaml without its extension module, which fits one version of Python only."""
    folder = Path(yaml.__file__).parent
    return {f"yaml/{path.name}": path.read_text() for path in folder.glob("*.py")}


def environments(server: Server) -> int:
    return len(list((server.folder / "envs").glob("*")))


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(
        enable_model_api="true",
        install_py_dep_per_model="true",
        default_workers_per_model=1,
        py_env_cache="envs",
    )
    return server.start()


def test_models_share_an_environment_and_a_restart_reuses_it(server, make_server, pool):
    urls = [model(server, name, "thing\n", thing="1.0") for name in ("one", "two", "three")]
    before = server.output.count(BUILT)
    answers = list(pool.map(server.register, urls))
    assert [answer.status for answer in answers] == [200, 200, 200], answers
    assert server.predict("two").json["thing"] == "1.0"
    assert server.predict("two").json["prefix"] == sys.prefix
    assert server.manage("DELETE", "/models/one").status == 200
    assert server.register("one.mar").status == 200
    again = make_server(
        install_py_dep_per_model="true",
        py_env_cache=server.folder / "envs",
        default_workers_per_model=1,
        load_models="two.mar",
    )
    (again.store / "two.mar").write_bytes((server.store / "two.mar").read_bytes())
    again.start()
    assert again.manage("GET", "/models/two").status == 200
    assert again.stop() == 0  # its log is then complete
    assert again.output.count("Model two uses the environment") == 1
    assert BUILT not in again.output
    until(lambda: server.output.count("Model one uses the environment") == 2)
    assert server.output.count(BUILT) == before + 1


@pytest.mark.parametrize("config", ["", "useVenv: true\n"], ids=["path", "venv"])
def test_models_have_their_own_versions_side_by_side(server, config):
    kind = "venv" if config else "path"
    for number in ("3.0", "4.0"):
        url = model(server, f"{kind}{number[0]}", "thing\n", config, thing=number)
        assert server.register(url).status == 200
    for number in ("3.0", "4.0"):
        answer = server.predict(f"{kind}{number[0]}").json
        assert answer["thing"] == number
        assert (answer["prefix"] == sys.prefix) == (kind == "path")


def test_a_broken_requirement_names_itself_and_leaves_nothing(server):
    url = model(server, "broken", "thing\nnosuch==7\n", thing="1.0")
    before = environments(server)
    for _ in range(2):
        answer = server.register(url)
        assert (answer.status, answer.json["type"]) == (400, "ModelException")
        headline, failed, *rest = answer.json["message"].splitlines()
        assert headline == "Custom pip package installation failed for model broken"
        assert failed == "Failed: nosuch==7"
        assert rest[-1] == "ERROR: No matching distribution found for nosuch==7"
    assert server.manage("GET", "/models/broken").status == 404
    assert environments(server) == before


def test_a_model_runs_in_an_older_interpreter(server):
    # Beside the interpreter of the tests, where version managers put others.
    found = sorted(Path(sys.base_prefix).parent.glob("3.9*/bin/python3.9"))
    if not found:
        pytest.skip("there is no Python 3.9 beside this one")
    bare = model(server, "bare", "thing\n", f"pythonExecutable: {found[0]}\n", thing="5.0")
    answer = server.register(bare)
    assert answer.status == 400
    assert "has no package yaml, which workers need" in answer.json["message"]
    for name, config in (("old", ""), ("oldvenv", "useVenv: true\n")):
        config += f"pythonExecutable: {found[0]}\n"
        url = model(server, name, "thing\npyyaml\n", config, thing="5.0", pyyaml="6.0")
        answer = server.register(url)
        assert answer.status == 200, answer.text
        told = server.predict(name).json
        assert told["python"].startswith("3.9.")
        assert told["thing"] == "5.0"
