"""Real worker processes: loading, answering, dying, and what they leave behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.worker.conftest import alive, ask, until
from tests.worker.handlers_for_workers import (
    BAD_SYNTAX,
    BROKEN_IMPORT,
    COMMANDS,
    ECHO,
    EXITS_AT_LOAD,
    WHOAMI,
)
from ts_worker.backend.base import LoadFailed
from ts_worker.backend.spawning import import_time

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def whoami(worker) -> dict:
    reply, _ = await ask(worker, b"")
    return json.loads(bytes(reply.responses[0].body))


async def test_a_worker_answers_a_batch_in_order(backend, spec):
    worker = await backend.start(spec(ECHO))
    reply, _ = await ask(worker, b"one", b"two", bytes(3_000_000))
    assert [bytes(r.body) for r in reply.responses] == [b"one", b"two", bytes(3_000_000)]
    await worker.stop(5)
    assert (await worker.exited()).code == 0


async def test_a_forked_worker_is_a_process_of_its_own(backend, spec, tmp_path):
    # Variables that count at import are kept, so that this worker is forked.
    env = {"ONLY": "this", "PATH": os.environ["PATH"], **import_time(os.environ)}
    first = spec(WHOAMI, threads=2, device=3, env=env)
    worker = await backend.start(first)
    other = await backend.start(spec(WHOAMI, id="9001", threads=1))
    me, them = await whoami(worker), await whoami(other)
    assert me["pid"] == worker.pid == first.events.pids[0] == me["group"]
    assert me["parent"] == os.getpid()
    assert me["cwd"] == str(tmp_path) == me["path"][0]
    assert (
        set(env)
        <= set(me["env"])
        <= {*env, "PYTHONPATH", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK"}
    )
    assert (me["threads"], them["threads"]) == (2, 1)
    assert me["gpu"] == 3
    assert me["random"] != them["random"]
    await until(lambda: ("stdout", "asked who I am") in first.events.lines)
    assert "PredictionTime" in {metric.name for metric in first.events.metrics}
    worker.resize(1)
    assert (await whoami(worker))["threads"] == 1
    await asyncio.gather(worker.stop(5), other.stop(5))


@pytest.mark.parametrize(
    ("source", "cause"),
    [
        (BROKEN_IMPORT, "No module named 'a_module_that_is_not_there'"),
        (BAD_SYNTAX, "SyntaxError"),
        (EXITS_AT_LOAD, "exit code 9"),
    ],
)
async def test_a_failing_load_names_its_cause(backend, spec, source, cause):
    with pytest.raises(LoadFailed) as failure:
        await backend.start(spec(source))
    assert cause in failure.value.message
    assert failure.value.code == 500
    assert "handler_of_test" in failure.value.traceback or "last words" in failure.value.traceback


async def test_a_load_that_is_given_up_leaves_no_process(backend, spec):
    hanging = spec("import time\nwhile True: time.sleep(60)\n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await backend.start(hanging)
    assert not alive(hanging.events.pids[0])


HANGS = """
import threading, time

def deep():
    threading.Event().wait()

def handle(data, context):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    deep()
"""


async def test_a_load_that_takes_too_long_tells_where_it_stands(backend, spec):
    hanging = spec(HANGS, startup_timeout=1.0)
    with pytest.raises(LoadFailed, match=r"did not load within startupTimeout=1\.0 s") as failure:
        await backend.start(hanging)
    assert not alive(hanging.events.pids[0])
    lines = failure.value.traceback.splitlines()
    assert any(line.startswith(("Thread 0x", "Current thread 0x")) for line in lines)
    assert 'handler_of_test.py", line 9 in handle' in "\n".join(lines)
    # As in a traceback, the innermost call of the main thread comes last.
    (at,) = [n for n, line in enumerate(lines) if "line 5 in deep" in line]
    assert lines[at - 1].endswith("line 9 in handle")
    assert "threading.py" in lines[-1]


async def test_the_first_import_of_torch_is_not_the_models_time(backend, spec, monkeypatch):
    async def late():
        await asyncio.sleep(1.1)

    monkeypatch.setattr(backend, "ready", late)
    hanging = spec(HANGS, startup_timeout=1.0)
    with pytest.raises(LoadFailed, match=r"did not load within startupTimeout=1\.0 s"):
        await backend.start(hanging)
    assert len(hanging.events.pids) == 1  # it had its second


async def test_an_import_of_torch_that_never_ends_is_told(backend, spec, monkeypatch):
    monkeypatch.setattr(backend, "ready", asyncio.Event().wait)
    monkeypatch.setattr("ts_worker.backend.process._WARM_UP_SECONDS", 0.1)
    waiting = spec(ECHO, startup_timeout=0.05)
    with pytest.raises(LoadFailed, match=r"did not import torch within 0\.1 s"):
        await backend.start(waiting)
    assert waiting.events.pids == []


async def test_a_load_inside_c_code_tells_its_stack_as_well(backend, spec):
    source = "import ctypes\nlibc = ctypes.PyDLL(None)\n"  # a PyDLL keeps the interpreter's lock
    hanging = spec(f"{source}def handle(d, c):\n    libc.sleep(600)\n", startup_timeout=1.0)
    with pytest.raises(LoadFailed) as failure:
        await backend.start(hanging)
    assert failure.value.traceback.splitlines()[-1].endswith("line 4 in handle")


CHATTERS = """
import sys, time

def handle(data, context):
    while True:
        print("still loading", "  100 %", file=sys.stderr)
        time.sleep(0.01)
"""


async def test_a_load_that_never_stops_writing_is_ended_all_the_same(backend, spec):
    chatting = spec(CHATTERS, startup_timeout=0.5)
    async with asyncio.timeout(30):
        with pytest.raises(LoadFailed, match="did not load within") as failure:
            await backend.start(chatting)
    assert not alive(chatting.events.pids[0])
    lines = failure.value.traceback.splitlines()
    assert any(line.endswith("in handle") for line in lines)  # which prints or sleeps
    assert not any("still loading" in line for line in lines)


async def test_a_stopped_process_is_ended_without_its_stacks(backend, spec):
    source = "import os, signal, sys\nprint('so far', file=sys.stderr)\n"
    stopped = spec(f"{source}os.kill(os.getpid(), signal.SIGSTOP)\n", startup_timeout=0.5)
    with pytest.raises(LoadFailed) as failure:
        await backend.start(stopped)
    assert failure.value.traceback == "so far"
    assert not alive(stopped.events.pids[0])


async def test_sigusr2_tells_what_a_worker_does_and_leaves_it_running(backend, spec):
    running = spec(ECHO)
    worker = await backend.start(running)
    os.kill(worker.pid, signal.SIGUSR2)
    await until(lambda: any("channel.py" in line for _, line in running.events.lines))
    reply, _ = await ask(worker, b"on")
    assert bytes(reply.responses[0].body) == b"on"
    await worker.stop(5)


@pytest.mark.parametrize(
    ("command", "code", "signum"),
    [(b"exit", 3, None), (b"sys.exit", 4, None), (b"segfault", None, signal.SIGSEGV)],
)
async def test_the_end_of_a_worker_is_known_with_its_reason(backend, spec, command, code, signum):
    worker = await backend.start(spec(COMMANDS))
    with pytest.raises(AssertionError, match="the worker ended"):
        await ask(worker, command)
    reason = await worker.exited()
    assert (reason.code, reason.signal) == (code, signum)
    if signum:
        assert any("handler_of_test" in line for line in reason.stderr_tail), "no crash stack"


async def test_stopping_a_worker_ends_what_its_handler_started(backend, spec):
    worker = await backend.start(spec(COMMANDS))
    reply, _ = await ask(worker, b"child")
    child = int(bytes(reply.responses[0].body))
    assert alive(child)
    await worker.stop(5)
    await until(lambda: not alive(child))


async def test_a_worker_that_does_not_stop_is_killed(backend, spec):
    worker = await backend.start(spec(COMMANDS))
    ignored = asyncio.ensure_future(ask(worker, b"hang"))
    await asyncio.sleep(0)
    await worker.stop(0.2)
    assert (await worker.exited()).signal == signal.SIGKILL
    with pytest.raises(AssertionError):
        await ignored


async def test_orphans_of_a_handler_are_reaped(backend, spec):
    worker = await backend.start(spec(COMMANDS))
    reply, _ = await ask(worker, b"orphan")
    orphan = int(bytes(reply.responses[0].body))
    await until(lambda: not os.path.exists(f"/proc/{orphan}"))
    await worker.stop(5)


async def test_a_handler_learns_that_its_client_went_away(backend, spec, tmp_path):
    worker = await backend.start(spec(COMMANDS))
    answer = asyncio.ensure_future(ask(worker, b"until cancelled"))
    await until((tmp_path / "started").exists)
    worker.cancel(b"1-0")
    reply, _ = await answer
    assert bytes(reply.responses[0].body) == b"cancelled"
    await worker.stop(5)


async def test_chunks_come_before_the_reply(backend, spec):
    worker = await backend.start(spec(COMMANDS))
    reply, chunks = await ask(worker, b"stream")
    assert [bytes(chunk.body) for chunk in chunks] == [b"a", b"b"]
    assert bytes(reply.responses[0].body) == b"c"
    await worker.stop(5)


async def test_kill_of_the_zygote_leaves_workers_and_a_spare_takes_over(backend, spec):
    worker = await backend.start(spec(ECHO))
    zygotes = backend._zygotes
    await until(lambda: zygotes._spare is not None)
    for _ in range(2):  # the spare of the spare as well
        first, spare = zygotes._active, zygotes._spare
        os.kill(first.child.pid, signal.SIGKILL)
        another = await backend.start(spec(ECHO, id="9001"))
        assert zygotes._active is spare
        reply, _ = await ask(worker, b"still here")
        assert bytes(reply.responses[0].body) == b"still here"
        await another.stop(5)
        await until(lambda: zygotes._spare is not None and zygotes._active is not None)
    await worker.stop(5)


async def test_a_vendored_numpy_gets_a_fresh_interpreter(backend, spec, tmp_path):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("VENDORED = True\n")
    source = "import numpy\ndef handle(data, context):\n    return [str(numpy.VENDORED)]\n"
    worker = await backend.start(spec(source))
    reply, _ = await ask(worker, b"")
    assert bytes(reply.responses[0].body) == b"True"
    await worker.stop(5)


async def test_a_models_modules_win_over_the_workers_own(backend, spec, tmp_path):
    """What the worker has imported itself goes on as it is; Python's own modules and ts stay."""
    for name in ("ts_worker", "yaml", "signal", "channel"):
        (tmp_path / f"{name}.py").write_text("MINE = True\n")
    (tmp_path / "ts").mkdir()
    (tmp_path / "ts" / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"configFile": "c.yaml"}}')
    (tmp_path / "c.yaml").write_text("read: by the true yaml\n")
    source = """
import channel, json, signal, ts, ts_worker, yaml
def handle(data, context):
    mine = [m.__name__ for m in (channel, signal, ts, ts_worker, yaml) if hasattr(m, "MINE")]
    return [{"mine": mine, **context.model_yaml_config}]
"""
    worker = await backend.start(spec(source))
    reply, _ = await ask(worker, b"")
    assert json.loads(bytes(reply.responses[0].body)) == {
        "mine": ["channel", "ts_worker", "yaml"],
        "read": "by the true yaml",
    }
    await worker.stop(5)


async def test_import_time_variables_get_a_fresh_interpreter(backend, spec):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    worker = await backend.start(spec(WHOAMI, env=env, threads=0))
    assert (await whoami(worker))["threads"] == 1
    assert (await whoami(worker))["parent"] == os.getpid()
    await worker.stop(5)


def started_with(pid: int) -> dict[str, str]:
    """The variables that a process was started with; of a fork, those of its zygote."""
    lines = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(line.partition("=")[::2] for line in lines if line)


async def test_threads_of_workers_do_not_turn_for_long(backend, spec):
    plain = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    fresh = {**plain, "OMP_NUM_THREADS": "1"}
    told = {**plain, "OMP_WAIT_POLICY": "PASSIVE"}
    usual = os.environ.get("GOMP_SPINCOUNT", "1000")
    for env, found in ((None, usual), (fresh, "1000"), (told, None)):
        worker = await backend.start(spec(WHOAMI, **({"env": env} if env else {})))
        assert started_with(worker.pid).get("GOMP_SPINCOUNT") == found
        await worker.stop(5)


async def test_an_interpreter_that_is_not_there_is_a_load_failure(backend, spec):
    with pytest.raises(LoadFailed, match="interpreter can't be started"):
        await backend.start(spec(ECHO, python="/no/such/python"))


async def test_modules_of_two_models_do_not_meet(backend, spec, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "utils.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "worker.py").write_text("")
    source = "import utils\nimport worker\ndef handle(d, c):\n    return [utils.NAME]\n"
    answers = []
    for name in ("one", "two"):
        folder = tmp_path / name
        (folder / "handler_of_test.py").write_text(source)
        worker = await backend.start(spec(ECHO, model_dir=str(folder), import_paths=(str(folder),)))
        reply, _ = await ask(worker, b"")
        answers.append(bytes(reply.responses[0].body).decode())
        await worker.stop(5)
    assert answers == ["one", "two"]


async def test_workers_die_with_the_server(tmp_path):
    """`kill -9` of a process with a backend: its worker and zygotes are gone within a second."""
    (tmp_path / "handler_of_test.py").write_text(COMMANDS)
    program = tmp_path / "server.py"
    program.write_text(SERVER)
    server = await asyncio.create_subprocess_exec(
        sys.executable, str(program), str(tmp_path), stdout=asyncio.subprocess.PIPE
    )
    pids = json.loads(await asyncio.wait_for(server.stdout.readline(), 60))
    assert len(pids) == 3
    assert all(map(alive, pids))
    server.kill()
    await server.wait()
    await until(lambda: not any(map(alive, pids)), seconds=1.0)
    server._transport.close()


SERVER = """
import asyncio, json, os, sys
sys.path.insert(0, os.getcwd())
from tests.worker.conftest import Events, predict_message, until
from ts_worker.backend.base import WorkerSpec
from ts_worker.backend.process import ProcessBackend

async def main():
    backend = ProcessBackend(os.environ)
    await backend.open()
    folder = sys.argv[1]
    worker = await backend.start(WorkerSpec("9000", "m", "1.0", folder, "handler_of_test.py",
        Events(), import_paths=(folder,), env=dict(os.environ)))
    worker.predict(predict_message(b"hang"), print)
    zygotes = backend._zygotes
    await until(lambda: zygotes._spare is not None)
    pids = [worker.pid, zygotes._active.child.pid, zygotes._spare.child.pid]
    print(json.dumps(pids), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
