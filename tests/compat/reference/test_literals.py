"""The texts that clients and scripts match on (12), out of one running server and its command.

Not here: `Workflow "{w}" unregistered`, since no workflow can be registered any more; and what
test_inference (`Unhealthy`) and test_scale (`Workers scaling in progress...`) have.
"""

from __future__ import annotations

import subprocess

import pytest

from tests.compat.reference.conftest import Ask
from tests.compat.reference.wire import pretty
from tests.e2e.conftest import MARS, Server, archive, until
from ts_frontend.version import __version__

pytestmark = pytest.mark.e2e


def status(text: str) -> bytes:
    return pretty({"status": text})


def test_ping(inference: Ask) -> None:
    """12 ping."""
    assert inference("GET", "/ping").body == status("Healthy")


def test_a_model_from_register_to_unregister(plain: Server, management: Ask) -> None:
    """12 register 0 workers, async worker change, scale, default, unregister: in this order."""
    archive(plain.store, "word", MARS / "echo.py")
    archive(plain.store, "word-2", MARS / "echo.py", version="2.0")
    calls = [
        (
            "POST",
            "/models?url=word.mar&initial_workers=0",
            200,
            'Model "word" Version: 1.0 registered with 0 initial workers. '
            "Use scale workers API to add workers for the model.",
        ),
        ("PUT", "/models/word?min_worker=1", 202, "Processing worker updates..."),
        ("PUT", "/models/word?synchronous=true", 200, "Workers scaled to 1 for model: word"),
        (
            "PUT",
            "/models/word/1.0?min_worker=2&synchronous=true",
            200,
            "Workers scaled to 2 for model: word, version: 1.0",
        ),
        (
            "POST",
            "/models?url=word-2.mar&model_name=word&initial_workers=2",
            200,
            'Model "word" Version: 2.0 registered with 2 initial workers',
        ),
        (
            "PUT",
            "/models/word/2.0/set-default",
            200,
            'Default version successfully updated for model "word" to "2.0"',
        ),
        ("DELETE", "/models/word/1.0", 200, 'Model "word" unregistered'),
        ("DELETE", "/models/word", 200, 'Model "word" unregistered'),
    ]
    for method, path, code, text in calls:
        reply = management(method, path)
        assert (reply.status, reply.body) == (code, status(text))
        if code == 202:
            until(lambda: plain.ready("word"))


def test_the_server_is_up(plain: Server) -> None:
    """12 server up: on stdout, by itself on a line, and once."""
    assert plain.output.count("Model server started.\n") == 1


def test_a_worker_is_up(plain: Server) -> None:
    """12 worker up: in the log of the model, once for each worker that started."""
    (worker,) = plain.workers("mirror")
    name = f" W-{worker['id']}-mirror_1.0-stdout MODEL_LOG - "
    for text in (f"[PID]{worker['pid']}\n", "Torch worker started.\n"):
        assert plain.log("model_log").count(name + text) == 1


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        pytest.param(["--version"], f"TorchServe Version is {__version__}\n", id="12 --version"),
        pytest.param(
            ["--start"],
            "TorchServe is already running, please use torchserve --stop to stop TorchServe.\n",
            id="12 --start of a running server",
        ),
    ],
)
def test_the_command(plain: Server, flags: list[str], text: str) -> None:
    assert run(plain, *flags) == text


def test_stop(tmp_path_factory: pytest.TempPathFactory) -> None:
    """12 --stop, and --stop of nothing."""
    server = Server(tmp_path_factory.mktemp("stopped"))
    server.prepare()
    server.start()
    assert server.process is not None
    assert run(server, "--stop") == "TorchServe has stopped.\n"
    until(lambda: server.process.poll() is not None)
    assert run(server, "--stop") == "TorchServe is not currently running.\n"


def run(server: Server, *flags: str) -> str:
    """What the command prints."""
    command = subprocess.run(
        [server.command()[0], *flags],
        cwd=server.folder,
        env=server.environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return command.stdout
