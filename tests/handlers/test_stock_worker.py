"""TorchServe's stock worker, sync and async, byte for byte over a pair of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import free_ports
from tests.handlers.conftest import METRICS_YAML
from ts import model_service_worker
from ts.metrics.metric_cache_errors import MetricsCacheTypeError
from ts.model_service_worker import TorchModelServiceWorker

END = b"\xff\xff\xff\xff"
SCRIPT = Path(model_service_worker.__file__)

ASYNC = """
import asyncio
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

class Handler:
    def initialize(self, context):
        self.waiting = {}
        context.note = []

    async def handle(self, data, context):
        word = data[0]["body"].decode()
        assert context.note == []  # a copy of its own
        context.note.append(word)
        if word.startswith("wait"):
            self.waiting[word] = asyncio.Event()
            await self.waiting[word].wait()
        if word.startswith("go"):
            self.waiting["wait" + word[2:]].set()
        if word == "bad":
            raise PredictionException("no", 422)
        if word == "parts":
            send_intermediate_predict_response(["a"], context.request_ids, "Result", 200, context)
        return [word + " " + context.get_request_id(0)]
"""


def field(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


def load_message(folder: Path, handler: bytes = b"handler.py", gpu: int = -1) -> bytes:
    head = b"L" + field(b"tiny") + field(str(folder).encode()) + struct.pack("!i", 1)
    return head + field(handler) + struct.pack("!i", gpu) + field(b"") + b"\x01"


def request(request_id: bytes, body: bytes) -> bytes:
    parameter = field(b"body") + field(b"") + field(body)
    return b"I" + field(request_id) + END + parameter + END + END


def answer(request_id: bytes, body: bytes, *headers: tuple[bytes, bytes]) -> bytes:
    packed = b"".join(field(name) + field(value) for name, value in headers)
    head = struct.pack("!i", 200) + field(b"Prediction success") + field(request_id) + field(b"")
    count = struct.pack("!iii", 200, 0, len(headers))
    return head + count + packed + field(body) + END


def loaded(code: int = 200, text: bytes = b"loaded model tiny") -> bytes:
    return struct.pack("!i", code) + field(text) + END


class Frontend:
    """The server's side of a connection to a worker in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(20)

    def send(self, message: bytes) -> None:
        self.sock.sendall(message)

    def expect(self, message: bytes) -> None:
        found = bytearray()
        while len(found) < len(message):
            part = self.sock.recv(len(message) - len(found))
            assert part, f"closed after {bytes(found)!r}"
            found += part
        assert bytes(found) == message


Serve = Callable[..., contextlib.AbstractContextManager[Frontend]]


@pytest.fixture
def worker() -> Iterator[TorchModelServiceWorker]:
    worker = TorchModelServiceWorker("tcp", port_num=9000, metrics_config=str(METRICS_YAML))
    yield worker
    worker.sock.close()


@pytest.fixture
def serve(worker, load) -> Serve:
    """Run a method of the worker on one end of a pair; the end it comes to is checked.

    ``load`` cleans up what the worker imports."""

    @contextlib.contextmanager
    def call(method: str = "handle_connection", end: type = SystemExit) -> Iterator[Frontend]:
        ours, theirs = socket.socketpair()
        ends: list[BaseException] = []

        def run() -> None:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            try:
                getattr(worker, method)(theirs)
            except BaseException as error:
                ends.append(error)
            finally:
                loop.close()

        thread = threading.Thread(target=run)
        thread.start()
        with theirs, ours:
            yield Frontend(ours)
            ours.close()
            thread.join(20)
        assert [type(error) for error in ends] == [end]

    return call


def test_it_loads_predicts_and_ends_with_the_server(serve, model_dir, caplog):
    caplog.set_level(logging.INFO)
    folder = model_dir({"handler.py": (Path(__file__).parents[1] / "mars/echo.py").read_text()})
    with serve() as frontend:
        frontend.send(load_message(folder))
        frontend.expect(loaded())
        for body in (b"one", b"two"):
            frontend.send(request(b"rid", body))
            frontend.expect(answer(b"rid", body))
    lines = caplog.messages
    assert "model_name: tiny, batchSize: 1" in lines
    assert any(line.startswith("Backend received inference at: ") for line in lines)
    assert lines[-1] == "Frontend disconnected."


@pytest.mark.parametrize(
    ("raised", "code", "text"),
    [
        ("MemoryError()", 507, b"System out of memory"),
        ("RuntimeError('CUDA error')", 507, b"System out of memory"),
        ("RuntimeError('else')", 500, b"Unknown exception"),
    ],
)
def test_a_load_that_fails_is_reported(serve, model_dir, raised, code, text):
    folder = model_dir({"handler.py": f"def handle(data, context):\n    raise {raised}\n"})
    with serve(end=RuntimeError) as frontend:
        frontend.send(load_message(folder))
        frontend.expect(loaded(code, text))


def test_any_other_failure_closes_the_connection(serve, model_dir):
    folder = model_dir({"handler.py": "import not_there\n"})
    with serve(end=ModuleNotFoundError) as frontend:
        frontend.send(load_message(folder))
    with serve(end=RuntimeError) as frontend:  # not loaded
        frontend.send(request(b"rid", b"x"))
    with serve(end=ValueError) as frontend:
        frontend.send(b"Z")


def test_asynchronous_handlers_answer_in_any_order(serve, model_dir):
    folder = model_dir({"handler.py": ASYNC})
    with serve("handle_connection_async") as frontend:
        frontend.send(load_message(folder))
        frontend.expect(loaded())
        frontend.send(request(b"r1", b"wait1") + request(b"r2", b"wait2") + request(b"r3", b"fast"))
        frontend.expect(answer(b"r3", b"fast r3"))
        frontend.send(request(b"r4", b"go2"))
        # Both are ready now, in one order or the other.
        frontend.expect(answer(b"r4", b"go2 r4"))
        frontend.expect(answer(b"r2", b"wait2 r2"))
        frontend.send(request(b"r5", b"bad"))
        refused = struct.pack("!i", 422) + field(b"no") + field(b"r5") + field(b"")
        frontend.expect(refused + struct.pack("!iii", 422, 0, 0) + field(b"error") + END)
        frontend.send(request(b"r6", b"parts"))
        more, last = (b"ts_stream_next", b"true"), (b"ts_stream_next", b"false")
        head = struct.pack("!i", 200) + field(b"Result") + field(b"r6") + field(b"")
        part = field(more[0]) + field(more[1]) + field(b"a") + END
        frontend.expect(head + struct.pack("!iii", 200, 0, 1) + part)
        frontend.expect(answer(b"r6", b"parts r6", last))
        # r1 waits for ever: it ends with the connection.


def test_asynchronous_loads_fail_alike(serve, model_dir):
    folder = model_dir({"handler.py": "def handle(data, context):\n    raise RuntimeError('x')\n"})
    with serve("handle_connection_async", RuntimeError) as frontend:
        frontend.send(load_message(folder))
        frontend.expect(loaded(500, b"Unknown exception"))
    with serve("handle_connection_async", RuntimeError) as frontend:
        frontend.send(request(b"r", b"x"))


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({}, ValueError, "Incomplete data provided"),
        ({"s_type": "unix"}, ValueError, "Wrong arguments passed. No socket name given."),
        ({"s_type": "tcp"}, ValueError, "Wrong arguments passed. No socket port given."),
        ({"s_type": "pipe"}, ValueError, "use unix or tcp"),
        ({"s_type": "tcp", "port_num": 1}, MetricsCacheTypeError, "must be a str"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, text):
    with pytest.raises(error, match=text):
        TorchModelServiceWorker(**arguments)


def test_each_rank_has_a_socket_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(model_service_worker, "LOCAL_RANK", 2)
    name = tmp_path / ".ts.sock.9000"
    (tmp_path / ".ts.sock.9002").write_text("left over")
    unix = TorchModelServiceWorker("unix", str(name), metrics_config=str(METRICS_YAML))
    tcp = TorchModelServiceWorker("tcp", port_num=9000, metrics_config=str(METRICS_YAML))
    assert unix.sock_name == f"{tmp_path}/.ts.sock.9002"
    assert not Path(unix.sock_name).exists()
    assert tcp.port == 9002
    unix.sock.close()
    tcp.sock.close()
    (tmp_path / ".ts.sock.9007").mkdir()
    with pytest.raises(RuntimeError, match=r"socket already in use: .*\.9007\."):
        TorchModelServiceWorker("unix", str(tmp_path / ".ts.sock.9005"))


def test_nobody_connects(worker, monkeypatch, caplog):
    monkeypatch.setattr(model_service_worker, "SOCKET_ACCEPT_TIMEOUT", 0.01)
    worker.port = free_ports(1)[0]
    with pytest.raises(SystemExit) as caught:
        worker.run_server()
    assert caught.value.code == 1
    assert "did not receive connection in: 0" in caplog.text


def test_with_ts_benchmark_the_connection_is_profiled(serve, model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(model_service_worker, "BENCHMARK", True)
    monkeypatch.setattr(model_service_worker.tempfile, "gettempdir", lambda: str(tmp_path))
    with serve() as frontend:
        frontend.send(load_message(model_dir({"handler.py": "def handle(d, c): return d\n"})))
        frontend.expect(loaded())
    assert (tmp_path / "tsPythonProfile.prof").stat().st_size > 0


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_the_script_serves_one_connection(kind, tmp_path, model_dir):
    folder = model_dir(
        {"handler.py": "def handle(data, context):\n    return ['hi'] if data else None\n"}
    )
    port = free_ports(1)[0]
    place = str(tmp_path / ".ts.sock.9000")
    where = ["--sock-name", place] if kind == "unix" else ["--port", str(port)]
    listening = f"port: {place}" if kind == "unix" else f"addr:port: 127.0.0.1:{port}"
    words = [sys.executable, str(SCRIPT), "--sock-type", kind, *where]
    process = subprocess.Popen(
        [*words, "--metrics-config", str(METRICS_YAML)],
        stdout=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if key != "LOCAL_RANK"},
    )
    try:
        lines = [process.stdout.readline().rstrip("\n") for _ in range(5)]
        assert lines == [
            f"Listening on {listening}",
            f"Successfully loaded {METRICS_YAML}.",
            f"[PID]{process.pid}",
            "Torch worker started.",
            f"Python runtime: {sys.version.split()[0]}",
        ]
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        with socket.socket(family) as sock:
            sock.connect(place if kind == "unix" else ("127.0.0.1", port))
            frontend = Frontend(sock)
            frontend.send(load_message(folder) + request(b"r", b"x"))
            frontend.expect(loaded() + answer(b"r", b"hi"))
        assert process.wait(20) == 0
        assert "Frontend disconnected." in process.stdout.read()
        assert not Path(place).exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_script_that_dies_says_so(tmp_path):
    place = tmp_path / ".ts.sock.9000"
    words = [sys.executable, str(SCRIPT), "--sock-type", "unix", "--sock-name", str(place)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout.startswith("Backend worker process died.\nTraceback")
