"""Every way in which a model can fail to load says why: to who registers it, in describe, in the
log. Real archives, a real server, real workers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.conftest import MARS, Server, archive, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TWO_CLASSES = """
class First:
    def initialize(self, context): pass
    def handle(self, data, context): return data
class Second(First):
    pass
"""
TINY = """
import torch
class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
"""
SHORT_OF_MEMORY = """
import resource
def handle(data, context):
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (64 << 20), resource.RLIM_INFINITY))
    return bytearray(1 << 30)
"""
GREEDY = "def handle(data, context):\n    return bytearray(1 << 60)\n"
RAISES = """
class Handler:
    def initialize(self, context):
        raise KeyError("the key of my vocabulary")
    def handle(self, data, context): pass
"""
HANGS = """
import threading
class Handler:
    def initialize(self, context):
        self.wait_for_a_friend()
    def wait_for_a_friend(self):
        threading.Event().wait()
    def handle(self, data, context): pass
"""
KILLED = """
import os, signal
def handle(data, context):
    os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass
class Failure:
    """How to make an archive that does not load, and what must be said about it."""

    words: tuple[str, ...]
    source: str | Path | None = None  # of the handler
    handler: str = ""  # instead of a file: a built-in one
    function: str = ""
    model: str = ""  # source of the model file
    weights: bytes | None = None
    query: tuple[tuple[str, object], ...] = ()
    status: int = 500


FAILURES = {
    "missing_module": Failure(
        ("Handler 'nobody' was not found", "--handler"),
        MARS / "echo.py",
        query=(("handler", "nobody.py"),),
    ),
    "syntax_error": Failure(("SyntaxError", "bad_syntax.py"), MARS / "broken" / "bad_syntax.py"),
    "wrong_class_count": Failure(("Expected only one class", "[First, Second]"), TWO_CLASSES),
    "missing_weights": Failure(("No model weights could be loaded",), handler="base_handler"),
    "corrupt_weights": Failure(
        ("weights.pth (400 bytes) is damaged, or no file of torch.save",),
        handler="base_handler",
        model=TINY,
        weights=b"junk" * 100,
    ),
    "pickled_weights": Failure(
        ("weights_only=false in the register call", "weightsOnly: false", "config.properties"),
        handler="base_handler",
        model=TINY,
        weights=b"\x80\x02cbuiltins\nprint\n.",
    ),
    "out_of_memory": Failure(
        ("System out of memory (MemoryError", "handler.py"), SHORT_OF_MEMORY, status=507
    ),
    "memory_error": Failure(("System out of memory (MemoryError",), GREEDY, status=507),
    "killed": Failure(("killed by SIGKILL",), KILLED, status=507),
    "initialize_raises": Failure(("KeyError: 'the key of my vocabulary'", "handler.py"), RAISES),
    "initialize_never_returns": Failure(
        ("did not load within startupTimeout=1 s", "most recent call last", "wait_for_a_friend"),
        HANGS,
        query=(("startup_timeout", 1),),
    ),
    "absent_package": Failure(
        ("No module named 'a_package_that_does_not_exist'", "import_error.py"),
        MARS / "import_error.py",
    ),
    "wrong_entry_function": Failure(
        ("no function no_such in module handler", "no handler class"),
        "def other(data, context): pass\n",
        function="no_such",
    ),
}


def pack(server: Server, name: str, failure: Failure) -> None:
    folder = server.folder / name
    folder.mkdir()
    flags: list[str] = []
    handler: str | Path = failure.handler
    if isinstance(failure.source, Path):
        handler = failure.source
    elif failure.source is not None:
        handler = folder / "handler.py"
        handler.write_text(failure.source)
        if failure.function:
            handler = f"{handler.with_suffix('')}:{failure.function}"
    if failure.model:
        (folder / "model.py").write_text(failure.model)
        flags += ["--model-file", str(folder / "model.py")]
    if failure.weights is not None:
        (folder / "weights.pth").write_bytes(failure.weights)
        flags += ["--serialized-file", str(folder / "weights.pth")]
    archive(server.store, name, handler, *flags)


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    return make_server(enable_model_api="true").start()


@pytest.mark.parametrize("name", FAILURES)
def test_the_cause_reaches_the_register_call_describe_and_the_log(server, name):
    failure = FAILURES[name]
    pack(server, name, failure)
    asked = {"initial_workers": 1, **dict(failure.query)}

    refused = server.register(f"{name}.mar", synchronous="true", **asked)
    message = refused.json["message"]
    assert refused.status == failure.status, message
    assert message.startswith(f"Failed to start workers for model {name} version: 1.0\n")
    for word in failure.words:
        assert word in message
    assert server.manage("GET", f"/models/{name}").status == 404

    assert server.register(f"{name}.mar", synchronous="false", **asked).status == 202
    until(lambda: "error" in server.workers(name)[0])
    worker = server.workers(name)[0]
    told = "\n".join([worker["error"], *worker.get("traceback", ())])
    for word in failure.words:
        assert word in told
    until(lambda: all(word in server.log("ts_log") for word in failure.words))
    assert server.manage("DELETE", f"/models/{name}").status == 200


@pytest.mark.parametrize("by", ["the register call", "its yaml"])
def test_pickled_weights_load_where_they_are_trusted(server, by):
    """A handler's own `torch.load` included. The vocabulary is an object of the handler's."""
    name = f"trusted_by_{by.split()[-1]}"
    folder = server.folder / name
    folder.mkdir()
    (folder / "handler.py").write_text(
        "import torch\n"
        "class Vocabulary:\n"
        "    word = 'hello'\n"
        "def handle(data, context):\n"
        "    global found\n"
        "    if data is None:\n"
        "        torch.save(Vocabulary(), 'v.pt')\n"
        "        found = torch.load('v.pt')\n"
        "    else:\n"
        "        return [found.word]\n"
    )
    (folder / "c.yaml").write_text(f"weightsOnly: {'false' if by == 'its yaml' else 'true'}\n")
    archive(server.store, name, folder / "handler.py", "--config-file", str(folder / "c.yaml"))
    asked = {"initial_workers": 1, "synchronous": "true"}
    if by == "its yaml":
        refused = server.register(f"{name}.mar", **asked, weights_only="true")
        assert (refused.status, "Vocabulary" in refused.text) == (500, True)
        assert "weightsOnly: false in its model-config.yaml" in refused.json["message"]
    else:
        asked["weights_only"] = "false"
    assert server.register(f"{name}.mar", **asked).status == 200
    assert server.predict(name).text == "hello"
    told = f"Model {name} version 1.0 may load pickles"
    until(
        lambda: [line for line in server.log("ts_log").splitlines() if told in line and by in line]
    )
