"""A real server on bad days: crashes, kills, timeouts, shutdown; what fails and what is left."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.e2e.conftest import MARS, Server, archive, runs, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(enable_model_api="true")
    for name in ("crash", "slow", "raises", "echo"):
        archive(server.store, name, MARS / f"{name}.py")
    server.start("--models", "crash.mar", "slow.mar", "raises.mar")
    for name in ("crash", "slow", "raises"):
        server.manage("PUT", f"/models/{name}", min_worker=1, max_worker=1, synchronous="true")
    until(lambda: server.ready("crash") and server.ready("slow") and server.ready("raises"))
    return server


@pytest.mark.parametrize("command", [b"exit", b"segfault", b"sysexit"])
def test_a_crash_fails_its_request_only_and_is_mended(server, command):
    answer = server.predict("crash", command)
    assert (answer.status, answer.json["message"]) == (500, "Worker died.")
    until(lambda: server.ready("crash"))
    assert server.predict("crash", b"well").body == b"well"


@pytest.mark.parametrize(
    ("command", "status", "message"),
    [
        (b"value", 503, "Prediction failed"),
        (b"prediction", 404, "no such endpoint"),
        (b"memory", 507, "Out of resources"),
        (b"tuple", 503, "Invalid model predict output"),
        (b"short", 503, "number of batch response mismatched"),
        (b"object", 503, "Unsupported model output data type."),
    ],
)
def test_a_handlers_error_keeps_the_worker(server, command, status, message):
    before = server.workers("raises")[0]["pid"]
    answer = server.predict("raises", command)
    assert answer.json == {"code": status, "type": "InternalServerException", "message": message}
    assert server.workers("raises")[0]["pid"] == before


def test_kill_of_a_worker_under_load(server, pool):
    """Only its own requests fail and a new worker serves within two seconds."""
    server.manage("PUT", "/models/slow", min_worker=2, synchronous="true")
    before = {worker["pid"] for worker in server.workers("slow")}
    answers = [pool.submit(server.predict, "slow", b"0.3") for _ in range(8)]
    until(lambda: server.manage("GET", "/models/slow").json[0]["jobQueueStatus"]["pendingRequests"])
    os.kill(min(before), signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: server.ready("slow", 2) and min(before) not in _pids(server, "slow"))
    assert time.monotonic() - killed < 2.0 + 1.0, "back-off of a second, then two to serve"
    statuses = [answer.result().status for answer in answers]
    assert statuses.count(200) == 7
    assert statuses.count(507) == 1


def _pids(server: Server, model: str) -> set[int]:
    return {worker["pid"] for worker in server.workers(model)}


def test_a_worker_that_does_not_answer_in_time_is_replaced(server):
    answer = server.register(
        "slow.mar", model_name="late", initial_workers=1, response_timeout=1, synchronous="true"
    )
    assert answer.status == 200
    assert server.predict("late", b"30").json["message"] == "Worker died."
    until(lambda: server.ready("late"))
    assert server.predict("late", b"0").text == "1"
    assert server.manage("DELETE", "/models/late").status == 200


def test_a_full_queue_refuses_at_once(server, pool):
    config = server.folder / "queue.yaml"
    config.write_text("jobQueueSize: 2\nminWorkers: 1\n")
    archive(server.store, "small", MARS / "slow.py", "--config-file", str(config))
    assert server.register("small.mar", synchronous="true").status == 200
    statuses = [a.status for a in pool.map(lambda _: server.predict("small", b"0.5"), range(8))]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) in (3, 4)  # one runs, two wait; one more if the first was quick


def test_kill_of_the_zygote_leaves_the_workers_and_the_next_can_start(server):
    zygotes = [p for p in server.family() if "zygote" in p.name()]
    assert len(zygotes) == 2, "one zygote and its spare"
    zygotes[0].kill()
    assert server.predict("crash", b"still").body == b"still"
    assert server.register("echo.mar", initial_workers=1, synchronous="true").status == 200
    assert server.predict("echo", b"new").body == b"new"
    assert server.manage("DELETE", "/models/echo").status == 200


def test_bad_archives_are_refused_with_their_cause(server):
    store = server.store
    whole = (store / "echo.mar").read_bytes()
    (store / "truncated.mar").write_bytes(whole[: len(whole) // 2])
    (store / "page.mar").write_bytes(b"<!DOCTYPE html><html>not here</html>")
    (store / "empty.mar").write_bytes(b"")
    for name, word in (("truncated", "truncated"), ("page", "web page"), ("empty", "empty")):
        answer = server.register(f"{name}.mar", model_name=name)
        assert answer.status >= 400
        assert word.lower() in answer.json["message"].lower(), answer.text
    assert server.register("absent.mar").json["message"] == "Model not found at: absent.mar"


def test_models_that_cannot_load_are_refused_with_their_traceback(server):
    archive(server.store, "syntax", MARS / "broken" / "bad_syntax.py")
    archive(server.store, "imports", MARS / "import_error.py")
    config = server.folder / "bad.yaml"
    config.write_text("minWorkers: [1\n")
    archive(server.store, "yaml", MARS / "echo.py", "--config-file", str(config))
    for name, status, words in (
        ("syntax", 500, ("Failed to start workers for model syntax version: 1.0", "SyntaxError")),
        ("imports", 500, ("a_package_that_does_not_exist", "import_error.py")),
        ("yaml", 400, ("bad.yaml", "line")),
    ):
        answer = server.register(f"{name}.mar", initial_workers=1, synchronous="true")
        assert answer.status == status, answer.text
        for word in words:
            assert word in answer.json["message"]
        assert server.manage("GET", f"/models/{name}").status == 404
    assert server.predict("crash", b"still here").status == 200


def test_a_port_in_use_is_a_clear_error(server, make_server):
    other = make_server()
    other.ports = server.ports
    other.prepare()
    with pytest.raises(AssertionError) as failure:
        other.start()
    assert "Cannot listen on" in str(failure.value)
    assert other.process.wait(10) == 1


def test_sigterm_answers_what_is_in_flight_and_leaves_nothing(make_server, pool):
    server = make_server()
    archive(server.store, "slow", MARS / "slow.py")
    server.start("--models", "slow.mar")
    until(lambda: server.ready("slow"))
    family = server.family()
    answer = pool.submit(server.predict, "slow", b"1")
    until(lambda: _in_flight(server))
    started = time.monotonic()
    assert server.stop() == 0
    assert answer.result().text == "1"
    assert time.monotonic() - started < 10
    assert not any(map(runs, family))
    assert not (server.folder / "key_file.json").exists()
    assert not list((server.folder / "tmp" / "models").glob("*"))


def _in_flight(server: Server) -> bool:
    return "ts_inference_requests_total{" in server.ask(2, "GET", "/metrics").text


def test_kill_of_the_server_takes_everything_with_it(make_server):
    server = make_server()
    archive(server.store, "echo", MARS / "echo.py")
    server.start("--models", "echo.mar")
    until(lambda: server.ready("echo"))
    family = server.family()
    assert len(family) >= 3
    server.process.kill()
    server.process.wait()
    until(lambda: not any(map(runs, family)), seconds=1.0)
