"""What a handler's threads and forked children print, all at the same time."""

from __future__ import annotations

import re

import pytest

from tests.worker.conftest import Events, ask, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Threads print all the time, more than the pipe takes: most forks happen during a write.
FORKS = """
import multiprocessing, os, select, signal, subprocess, threading

class Chatter:
    def __enter__(self):
        self.end = threading.Event()
        self.threads = [threading.Thread(target=self.talk, args=(name,)) for name in "ab"]
        for one in self.threads:
            one.start()

    def __exit__(self, *error):
        self.end.set()
        for one in self.threads:
            one.join()

    def talk(self, name):
        while not self.end.is_set():
            print(name * 2000)

def process():
    child = multiprocessing.get_context("fork").Process(target=print, args=("child",))
    child.start()
    child.join(20)
    child.kill()
    return child.exitcode

def fork():
    pid = os.fork()
    if not pid:
        print("child")
        os._exit(0)
    if not select.select([gone := os.pidfd_open(pid)], [], [], 20)[0]:
        os.kill(pid, signal.SIGKILL)
    os.close(gone)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def popen():
    return subprocess.Popen(["echo", "child"], preexec_fn=lambda: print("child")).wait(20)

def handle(data, context):
    if data is None:
        return None
    way = globals()[bytes(data[0]["body"]).decode()]
    with Chatter():
        for _ in range(30):
            if code := way():
                return [f"hangs: {code}"]
    return ["all ended"]
"""

LONG_LINES = """
import sys, threading

def talk(name):
    for number in range(200):
        print(name * 20_000 if number % 2 else name)
        sys.stdout.buffer.write((name * 20_000 + "\\n").encode())

def handle(data, context):
    if data is None:
        return None
    threads = [threading.Thread(target=talk, args=(name,)) for name in "abc"]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return ["said"]
"""


@pytest.mark.parametrize(("way", "said"), [("process", 30), ("fork", 30), ("popen", 60)])
async def test_children_that_are_forked_while_threads_print_do_not_hang(backend, spec, way, said):
    events = Events()
    worker = await backend.start(spec(FORKS, events=events))
    reply, _ = await ask(worker, way.encode())
    assert bytes(reply.responses[0].body) == b"all ended"
    texts = [line for _, line in events.lines]
    assert texts.count("child") == said
    assert {text for text in texts if re.match("a|b", text)} == {"a" * 2000, "b" * 2000}
    await worker.stop(5)


async def test_long_lines_of_threads_stay_whole(backend, spec):
    events = Events()
    worker = await backend.start(spec(LONG_LINES, events=events))
    await ask(worker, b"x")
    await until(lambda: len(events.lines) >= 1202)  # with the two of each worker's start
    texts = [line for _, line in events.lines[2:]]
    for name in "abc":
        assert texts.count(name) == 100
        assert texts.count(name * 20_000) == 300
    await worker.stop(5)
