"""Each example as its README tells it: every command is run, and every answer compared.

The numbers in an answer may differ a little: models are trained on whatever torch is installed.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import SCRIPTS, Server

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]
EXAMPLES = Path(__file__).parents[2] / "examples"
ADDRESSES = ("127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082")

# Commands, maybe a sentence on their answer, and the answer.
_SECTION = re.compile(r"^```bash\n(.*?)^```$[^`]*^```\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Section:
    """One block of commands in a README: make the archives, start the server, ask it."""

    example: str
    commands: str
    answer: str

    @property
    def archive(self) -> str:
        return self._parts[0]

    @property
    def start(self) -> list[str]:
        return shlex.split(self._parts[1])

    @property
    def ask(self) -> str:
        return self._parts[2]

    @property
    def models(self) -> list[str]:
        return [word.removesuffix(".mar") for word in self.start if word.endswith(".mar")]

    @property
    def _parts(self) -> list[str]:
        archive, start, ask = self.commands.replace("\\\n", "").split("\n", 2)
        return [archive, start, ask]


def sections(example: str) -> list[Section]:
    text = (EXAMPLES / example / "README.md").read_text()
    return [Section(example, *found) for found in _SECTION.findall(text)]


def folders() -> list[str]:
    """All examples but the demo, which `make demo` runs, and the plugins, which have own tests."""
    found = {path.parent.name for path in EXAMPLES.glob("*/archive.py")}
    return sorted(found - {"efficientnet_lite0"})


def cases() -> list[object]:
    compiler = pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++")
    marks = {
        ("digits", 1): [pytest.mark.slow, compiler],
        ("sentence_embeddings", 0): [pytest.mark.slow],
    }
    return [
        pytest.param(section, id="-".join(section.models), marks=marks.get((name, index), ()))
        for name in folders()
        for index, section in enumerate(sections(name))
    ]


@pytest.fixture(scope="module")
def server(make_server: Callable[..., Server]) -> Server:
    """One server for all examples, in a folder from where their commands can be run."""
    metrics = EXAMPLES / "custom_metrics" / "metrics.yaml"
    server = make_server(
        metrics_config=metrics, enable_model_api="true", disable_token_authorization="true"
    )
    (server.folder / "examples").symlink_to(EXAMPLES)
    (server.folder / "model_store").symlink_to(server.store)
    return server.start()


@pytest.mark.parametrize("section", cases())
def test_an_example_answers_as_its_readme_says(section: Section, server: Server) -> None:
    shell(server, section.archive)
    assert section.start[:2] == ["torchserve-py", "--start"]
    for model in section.models:
        answer = server.register(f"{model}.mar", initial_workers=1, synchronous="true")
        assert answer.status == 200, answer.text

    answer = shell(server, section.ask)

    for model in section.models:
        server.manage("DELETE", f"/models/{model}")
    assert words(answer) == words(section.answer)
    assert numbers(answer) == pytest.approx(numbers(section.answer), rel=0.1, abs=0.1)


def test_the_list_has_every_example() -> None:
    listed = re.findall(
        r"^\| \[(\w+)\]\(\1/README.md\)", (EXAMPLES / "README.md").read_text(), re.M
    )
    assert sorted(listed) == sorted([*folders(), "efficientnet_lite0"])
    assert all(sections(name) for name in folders())


def test_the_settings_of_the_metrics_are_those_of_the_test() -> None:
    text = (EXAMPLES / "custom_metrics" / "config.properties").read_text()
    assert text == "metrics_config=examples/custom_metrics/metrics.yaml\n"


def shell(server: Server, command: str) -> str:
    """Run a README's command as a user would, but for the ports; what it prints."""
    for address, port in zip(ADDRESSES, server.ports, strict=True):
        command = command.replace(address, f"127.0.0.1:{port}")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=server.folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{SCRIPTS}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout


def words(text: str) -> list[str]:
    return _NUMBER.sub("#", text).split()


def numbers(text: str) -> list[float]:
    return [float(number) for number in _NUMBER.findall(text)]
