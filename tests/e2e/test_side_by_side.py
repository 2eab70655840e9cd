"""Models whose files have the same names, or ours, never see each other's."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Server, archive, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

COMMON = ("model", "utils", "worker", "config", "helpers")
# Modules of the server's own, of the zygote, and of packages that it has imported.
TAKEN = ("ts_worker", "yaml", "numpy", "torch", "zygote", "wire")
HANDLER = """
import json
{imports}

class Handler:
    def initialize(self, context):
        import {late}
        self.late = {late}.WHOSE
    def handle(self, data, context):
        seen = {{{seen}}}
        return [json.dumps({{**seen, "late": self.late}}) for _ in data]
"""


def pack(server: Server, name: str, modules: tuple[str, ...], handler: str = "handler.py") -> None:
    folder = server.folder / name
    folder.mkdir()
    for module in modules:
        (folder / f"{module}.py").write_text(f"WHOSE = {name!r}\n")
    if modules is TAKEN:  # this one stays ours: the server's handlers come from there
        (folder / "ts").mkdir()
        (folder / "ts" / "__init__.py").write_text(f"WHOSE = {name!r}\n")
    *first, late = modules
    source = HANDLER.format(
        imports="\n".join(f"import {module}" for module in first),
        late=late,
        seen=", ".join(f"{module!r}: {module}.WHOSE" for module in first),
    )
    place = server.folder / f"{name}_handler"
    place.mkdir()
    (place / handler).write_text(source)
    archive(server.store, name, place / handler, "--extra-files", str(folder))


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(default_workers_per_model=2, batch_size=1)
    for name in ("one", "two"):
        pack(server, name, COMMON)
    pack(server, "bold", TAKEN)
    pack(server, "signals", ("utils",), handler="signal.py")
    server.start("--models", "one.mar", "two.mar", "bold.mar", "signals.mar")
    until(lambda: all(server.ready(name, 2) for name in ("one", "two", "bold", "signals")))
    return server


@pytest.mark.parametrize("round", range(4))
@pytest.mark.parametrize(
    ("name", "modules"),
    [("one", COMMON), ("two", COMMON), ("bold", TAKEN), ("signals", ("utils",))],
)
def test_each_model_sees_its_own(server, name, modules, round):
    answer = server.predict(name)
    assert answer.status == 200, answer.text
    *first, _ = modules
    assert answer.json == {**dict.fromkeys(first, name), "late": name}


def test_only_models_with_a_taken_name_get_a_fresh_interpreter(server):
    """The others are kept apart although they are forked from one process."""
    told = [line for line in server.log("ts_log").splitlines() if "fresh interpreter" in line]
    ids = {model: {one["id"] for one in server.workers(model)} for model in ("one", "two")}
    fresh = {line.split("Worker ")[1].split()[0] for line in told}
    assert len(fresh) == 4
    assert not fresh & (ids["one"] | ids["two"])
