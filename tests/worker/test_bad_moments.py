"""What goes wrong around a worker: forks that fail, zygotes that hang, handlers that are odd."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from tests.worker.conftest import Events, alive, ask, until
from tests.worker.handlers_for_workers import COMMANDS, ECHO
from ts_worker.backend import zygotes as zygotes_module
from ts_worker.backend.base import LoadFailed, WorkerGone
from ts_worker.backend.process import ProcessBackend
from ts_worker.messages import Param, Predict, Request

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A zygote's answer to a request when the first or the second of its two forks is refused.
REFUSED_FORKS = """
import os, socket, sys
from ts_worker.runtime import zygote
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
answers = iter({"first": [-1], "second": [os.fork, -1]}[sys.argv[1]])
def fork():
    answer = next(answers)
    return answer if isinstance(answer, int) else answer()
zygote._try_fork = fork
assert zygote._fork(theirs, 0, b"W", []) is None
print(zygote.PID.unpack(ours.recv(100))[0])
"""


def odd(source: str) -> str:
    return (
        f"{source}\ndef handle(data, context):\n    return act(data, context) if data else None\n"
    )


@pytest.mark.parametrize("which", ["first", "second"])
async def test_a_zygote_answers_when_the_kernel_refuses_to_fork(which):
    """Without an answer the server would wait for ever, and every later start with it."""
    command = [sys.executable, "-c", REFUSED_FORKS, which]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "0\n", done.stderr


async def test_a_zygote_that_does_not_answer_is_replaced(backend, spec, monkeypatch):
    monkeypatch.setattr(zygotes_module, "_FORK_SECONDS", 0.2)
    zygotes = backend._zygotes
    await until(lambda: zygotes._spare is not None)
    stuck = zygotes._active.child
    os.kill(stuck.pid, signal.SIGSTOP)
    worker = await backend.start(spec(ECHO))
    reply, _ = await ask(worker, b"served")
    assert bytes(reply.responses[0].body) == b"served"
    assert not alive(stuck.pid)
    await worker.stop(5)


async def test_cancelling_a_start_does_not_wait_for_the_zygote(spec):
    backend = ProcessBackend(os.environ)
    await backend.open()
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await backend.start(spec(ECHO))
    imported = backend._zygotes.modules
    await backend.close()
    assert not imported, "it was too slow to see the zygote at its imports"
    assert time.monotonic() - began < 5.0


async def test_a_zygote_with_threads_makes_way_for_fresh_interpreters(spec, tmp_path):
    """A fork copies one thread only: whatever lock another one holds stays locked for ever."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    backend = ProcessBackend(environ)
    await backend.open()
    worker = await backend.start(spec(ECHO, env=environ))
    reply, _ = await ask(worker, b"served")
    assert bytes(reply.responses[0].body) == b"served"
    await backend.close()


async def test_a_foreign_package_ts_is_named(backend, spec, tmp_path):
    (tmp_path / "other" / "ts").mkdir(parents=True)
    (tmp_path / "other" / "ts" / "__init__.py").write_text("")
    env = {**os.environ, "PYTHONPATH": str(tmp_path / "other")}
    with pytest.raises(LoadFailed, match="is not this server's"):
        await backend.start(spec(ECHO, env=env))


async def test_json_that_is_nested_too_deeply_costs_no_worker(backend, spec):
    worker = await backend.start(spec(ECHO))
    bomb = b"[" * 100_000
    request = Request(b"1-0", b"", (Param("body", "application/json", bomb),))
    answer = asyncio.get_running_loop().create_future()
    worker.predict(Predict(1, (request,)), answer.set_result)
    assert bytes((await answer).responses[0].body) == bomb
    await worker.stop(5)


@pytest.mark.parametrize(
    ("act", "code", "body"),
    [
        ("context.set_response_header(0, 'x', '\\ud800'); return ['y']", 503, b""),
        ("context.set_response_status(99999999999, idx=0); return ['y']", 503, b""),
        (
            "context.metrics.add_metric_to_cache('M', 'count', ['a', 'b'])"
            ".add_or_update(1, [['x'], 3]); return ['y']",
            200,
            b"y",
        ),
    ],
    ids=["header", "status", "metric"],
)
async def test_what_cannot_be_sent_costs_no_worker(backend, spec, act, code, body):
    worker = await backend.start(spec(odd(f"def act(data, context):\n    {act}\n")))
    for number in (1, 2):
        reply, _ = await ask(worker, b"x", batch_id=number)
        assert reply.code == code
        assert [bytes(response.body) for response in reply.responses] == [body]
    await worker.stop(5)


@pytest.mark.parametrize(
    "act",
    [
        "log.info('%(missing)s', {'there': 1})",
        "log.info(Unsayable())",
        "context.metrics.add_counter('big', 10**400)",
        "context.metrics.add_counter('big', Fraction(10**400))",
        "context.metrics.add_metric_to_cache('M', 'count', ['a']).add_or_update(1, [Unsayable()])",
    ],
)
async def test_what_cannot_be_logged_fails_no_request(backend, spec, act):
    source = odd(f"""
import logging
from fractions import Fraction
log = logging.getLogger()
class Unsayable:
    def __str__(self):
        raise RuntimeError("unsayable")
def act(data, context):
    {act}
    return ["y"]
""")
    events = Events()
    worker = await backend.start(spec(source, events=events))
    reply, _ = await ask(worker, b"x")
    assert [bytes(response.body) for response in reply.responses] == [b"y"]

    def told() -> str:
        return "\n".join([line for _, line in events.lines] + [one.text for one in events.records])

    await until(lambda: "Logging error" in told() or "Failed to update metric" in told())
    await worker.stop(5)


async def test_a_forked_child_of_a_handler_logs_to_stdout_and_leaves_the_connection_alone(
    backend, spec
):
    source = odd("""
import logging, os
class Mine(logging.Handler):
    def emit(self, record):
        print("my handler:", record.getMessage())
def act(data, context):
    logging.getLogger().addHandler(Mine())
    pid = os.fork()
    if not pid:
        logging.getLogger("child").debug("too low")
        logging.getLogger("child").error("from the child")
        context.metrics.add_counter("Child", 1)
        os._exit(0)
    os.waitpid(pid, 0)
    return ["parent"]
""")
    events = Events()
    worker = await backend.start(spec(source, events=events))
    reply, _ = await ask(worker, b"x")
    assert bytes(reply.responses[0].body) == b"parent"
    await until(lambda: any(text.startswith("[METRICS]Child") for _, text in events.lines))
    stdout = [text for stream, text in events.lines if stream == "stdout"]
    said = stdout.index("from the child")
    assert stdout[said + 1] == "my handler: from the child"
    assert re.match(
        r"\[METRICS\]Child\.Count:1\|#.*\|#type:COUNTER\|#hostname:.*,1-0$", stdout[said + 2]
    )
    assert not [text for _, text in events.lines if "too low" in text]
    assert not [record for record in events.records if record.logger == "child"]
    assert not [metric for metric in events.metrics if metric.name == "Child"]
    await worker.stop(5)


async def test_output_that_never_ends_does_not_hold_up_the_server(backend, spec):
    """A grandchild in a session of its own outlives the worker and goes on writing."""
    source = odd("""
import os, subprocess
def act(data, context):
    print(subprocess.Popen(["yes"], start_new_session=True).pid, flush=True)
    os._exit(7)
""")
    worker = await backend.start(spec(source))
    with pytest.raises(AssertionError, match="the worker ended"):
        await ask(worker, b"x")
    assert (await worker.exited()).code == 7


async def test_a_worker_that_has_ended_takes_no_batch(backend, spec):
    worker = await backend.start(spec(COMMANDS))
    with pytest.raises(AssertionError, match="the worker ended"):
        await ask(worker, b"exit")
    with pytest.raises(WorkerGone):
        worker.predict(Predict(2, ()), print)


async def test_signals_to_the_group_leave_workers_and_zygotes_running(backend, spec):
    """Ctrl-C reaches everything in a terminal; only the server decides who ends. What a handler
    starts must not inherit ignored signals."""
    source = odd("""
import subprocess, sys
def act(data, context):
    code = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    return [subprocess.run([sys.executable, "-c", code], capture_output=True).stdout]
""")
    worker = await backend.start(spec(source))
    zygotes = backend._zygotes
    await until(lambda: zygotes._spare is not None)
    for signum in (signal.SIGINT, signal.SIGTERM):
        for pid in (worker.pid, zygotes._active.child.pid, zygotes._spare.child.pid):
            os.kill(pid, signum)
    reply, _ = await ask(worker, b"x")
    assert bytes(reply.responses[0].body) == b"True\n"
    other = await backend.start(spec(ECHO, id="9001"))
    await asyncio.gather(worker.stop(5), other.stop(5))


async def test_a_held_worker_waits_in_its_next_write(backend, spec):
    source = odd("""
from ts.handler_utils.utils import send_intermediate_predict_response
def act(data, context):
    for number in range(64):
        send_intermediate_predict_response(
            [bytes(1 << 20)], context.request_ids, "Intermediate", 200, context)
        print(number, flush=True)
    return ["end"]
""")
    events = Events()
    worker = await backend.start(spec(source, events=events))
    worker.hold(True)
    answer = asyncio.ensure_future(ask(worker, b"x"))
    other = await backend.start(spec(ECHO, id="9001"))  # the server goes on meanwhile
    await other.stop(5)
    assert sum(line.isdigit() for _, line in events.lines) < 4
    worker.hold(False)
    reply, chunks = await answer
    assert bytes(reply.responses[0].body) == b"end"
    assert sum(len(chunk.body) for chunk in chunks) == 64 << 20
    await worker.stop(5)
