"""Workers that read and prepare batches while their handler is at an earlier one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.worker.conftest import Events, predict_message, until
from tests.worker.handlers_for_workers import COMMANDS
from ts_worker.backend.base import WorkerSpec
from ts_worker.messages import Param, Predict, Reply, ReplyChunk, Request

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Batches that say so wait for a file; what preprocess has seen is in the folder as well.
GATED = """
import os, sys, threading, time
from pathlib import Path

def wait_for(name):
    end = time.monotonic() + 20
    while not Path(name).exists():
        assert time.monotonic() < end, "nobody opened " + name
        time.sleep(0.002)

class Handler:
    preprocess_ahead = True

    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        bodies = [bytes(row["body"]).decode() for row in data]
        if "bad" in bodies:
            raise ValueError("preprocess refused it")
        if "exit" in bodies:
            sys.exit(4)
        Path("prepared-" + bodies[0]).write_text(threading.current_thread().name)
        return bodies

    def handle(self, data, context):
        bodies = self.preprocess(data)
        Path("begun-" + bodies[0]).touch()
        if bodies[0].startswith("gate"):
            wait_for("open-" + bodies[0])
        if bodies[0].startswith("until cancelled"):
            end = time.monotonic() + 20
            while not context.is_cancelled(0):
                assert time.monotonic() < end, "the cancellation did not come"
                time.sleep(0.002)
        if bodies[0] in ("until cancelled", "one"):
            return [f"{body} {context.is_cancelled(at)}" for at, body in enumerate(bodies)]
        return bodies
"""

STREAMS = """
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    if data is None:
        return None
    for part in "ab":
        send_intermediate_predict_response([part], context.request_ids, "More", 200, context)
    return ["c"]
"""


class Asked:
    """A batch that was sent: its reply and the chunks before it."""

    def __init__(self, worker, batch: Predict) -> None:
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.chunks: list[bytes] = []
        worker.predict(batch, self._take)

    def _take(self, message) -> None:
        if isinstance(message, ReplyChunk):
            self.chunks.append(bytes(message.body))
        else:
            self.reply.set_result(message)

    async def answer(self) -> Reply:
        return await asyncio.wait_for(self.reply, 30)

    async def bodies(self) -> list[str]:
        return [bytes(one.body).decode() for one in (await self.answer()).responses]


def ask(worker, number: int, *bodies: bytes) -> Asked:
    return Asked(worker, predict_message(*bodies, batch_id=number))


async def at_work(
    backend, started: WorkerSpec, folder: Path, body: str = "gate"
) -> tuple[Any, Asked]:
    """A worker of `GATED` whose handler has begun with its first batch, and that batch."""
    worker = await backend.start(started)
    first = ask(worker, 1, body.encode())
    await until((folder / f"begun-{body}").exists)
    return worker, first


Spec = Callable[..., WorkerSpec]


async def test_preprocess_of_the_next_batch_runs_while_the_handler_is_at_this_one(
    backend, spec: Spec, tmp_path: Path
) -> None:
    worker, first = await at_work(backend, spec(GATED, prefetch=True), tmp_path)
    second, third = ask(worker, 2, b"second", b"more"), ask(worker, 3, b"third")
    await until((tmp_path / "prepared-third").exists)
    assert not first.reply.done()
    assert not (tmp_path / "begun-second").exists()
    assert (tmp_path / "prepared-gate").read_text() == "MainThread"  # nothing to be ahead of
    assert (tmp_path / "prepared-second").read_text().startswith("ts-prefetch")
    (tmp_path / "open-gate").touch()
    assert await first.bodies() == ["gate"]
    assert await second.bodies() == ["second", "more"]
    assert await third.bodies() == ["third"]
    await worker.stop(5)


async def test_an_error_of_preprocess_is_its_own_batch_s(
    backend, spec: Spec, tmp_path: Path
) -> None:
    events = Events()
    started = spec(GATED, prefetch=True, events=events)
    worker, first = await at_work(backend, started, tmp_path)
    bad, good = ask(worker, 2, b"bad"), ask(worker, 3, b"good")
    await until((tmp_path / "prepared-good").exists)
    (tmp_path / "open-gate").touch()
    assert await first.bodies() == ["gate"]
    assert (await bad.answer())[1:3] == (503, "Prediction failed")
    assert await good.bodies() == ["good"]
    await until(lambda: any("preprocess refused it" in one.text for one in events.records))
    (record,) = [one for one in events.records if "preprocess refused it" in one.text]
    assert record.request_ids == "2-0"
    await worker.stop(5)


async def test_an_exit_in_preprocess_ends_the_worker_at_its_turn(
    backend, spec: Spec, tmp_path: Path
) -> None:
    worker, first = await at_work(backend, spec(GATED, prefetch=True), tmp_path)
    last = ask(worker, 2, b"exit")
    (tmp_path / "open-gate").touch()
    assert await first.bodies() == ["gate"]
    assert (await asyncio.wait_for(worker.exited(), 30)).code == 4
    assert not last.reply.done()


async def test_cancellations_reach_the_running_batch_and_those_ahead(
    backend, spec: Spec, tmp_path: Path
) -> None:
    started = spec(GATED, prefetch=True)
    worker, first = await at_work(backend, started, tmp_path, "until cancelled")
    second = ask(worker, 2, b"one", b"two")
    worker.cancel(b"2-1")
    worker.cancel(b"1-0")
    assert await first.bodies() == ["until cancelled True"]
    assert await second.bodies() == ["one False", "two True"]
    assert await ask(worker, 3, b"on").bodies() == ["on"]
    await worker.stop(5)


async def test_streams_stay_in_order(backend, spec: Spec) -> None:
    worker = await backend.start(spec(STREAMS, prefetch=True))
    asked = [ask(worker, number, b"x") for number in range(1, 6)]
    for one in asked:
        assert (await one.bodies(), one.chunks) == (["c"], [b"a", b"b"])
    await worker.stop(5)


async def test_json_that_is_not_json_is_warned_of_and_large_bodies_come_whole(
    backend, spec: Spec, tmp_path: Path
) -> None:
    source = """
def handle(data, context):
    return None if data is None else [
        {"type": type(row["body"]).__name__, "size": len(row["body"])} for row in data]
"""
    events = Events()
    worker = await backend.start(spec(source, prefetch=True, events=events))

    def json_body(number: int, body: bytes) -> Asked:
        request = Request(f"{number}-0".encode(), b"", (Param("body", "application/json", body),))
        return Asked(worker, Predict(number, (request,)))

    large = json.dumps(["x" * 100] * 30_000).encode()
    asked = [json_body(n, large if n % 2 else b"no json") for n in range(1, 7)]
    found = [json.loads((await one.bodies())[0]) for one in asked]
    assert found == [{"type": "list", "size": 30_000}, {"type": "bytearray", "size": 7}] * 3
    assert sum("is not JSON" in one.text for one in events.records) == 3
    await worker.stop(5)


async def test_a_worker_that_is_asked_to_stop_answers_what_it_has(
    backend, spec: Spec, tmp_path: Path
) -> None:
    worker, first = await at_work(backend, spec(GATED, prefetch=True), tmp_path)
    second = ask(worker, 2, b"second")
    stopping = asyncio.ensure_future(worker.stop(20))
    await until((tmp_path / "prepared-second").exists)
    (tmp_path / "open-gate").touch()
    await stopping
    assert (await first.bodies(), await second.bodies()) == (["gate"], ["second"])
    assert (await worker.exited()).code == 0


async def test_a_killed_worker_ends_with_batches_ahead(backend, spec: Spec, tmp_path: Path) -> None:
    worker, first = await at_work(backend, spec(GATED, prefetch=True), tmp_path)
    asked = [first, ask(worker, 2, b"second"), ask(worker, 3, b"third")]
    await until((tmp_path / "prepared-third").exists)
    os.kill(worker.pid, signal.SIGKILL)
    assert (await asyncio.wait_for(worker.exited(), 30)).signal == signal.SIGKILL
    assert not any(one.reply.done() for one in asked)


FORKS = """
import multiprocessing

def double(number):
    return 2 * number

def handle(data, context):
    if data is None:
        return None
    with multiprocessing.get_context("fork").Pool(1) as pool:  # ends its children with SIGTERM
        return [pool.map(double, [21]) for _ in data]
"""


@pytest.mark.parametrize("prefetch", [False, True])
async def test_a_handler_may_fork_a_pool_of_processes(backend, spec: Spec, prefetch: bool) -> None:
    worker = await backend.start(spec(FORKS, prefetch=prefetch))
    for one in [ask(worker, number, b"x") for number in range(1, 9)]:
        assert [json.loads(body) for body in await one.bodies()] == [[42]]
    await worker.stop(5)


@pytest.mark.parametrize(
    ("prefetch", "cure"), [(True, "did not call self.preprocess"), (False, "it takes prefetch: 1")]
)
async def test_asking_for_preprocess_ahead_in_vain_is_told(
    backend, spec: Spec, tmp_path: Path, prefetch: bool, cure: str
) -> None:
    source = """
import time
from pathlib import Path

class Handler:
    preprocess_ahead = True

    def initialize(self, context):
        pass

    def preprocess(self, data):
        Path("prepared-" + bytes(data[0]["body"]).decode()).touch()
        return data

    def handle(self, data, context):
        Path("begun").touch()
        end = time.monotonic() + 20
        while not Path("open").exists():
            assert time.monotonic() < end, "nobody opened"
            time.sleep(0.002)
        return [row["body"] for row in self.preprocess([{"body": row["body"]} for row in data])]
"""
    events = Events()
    worker = await backend.start(spec(source, prefetch=prefetch, events=events))
    first = ask(worker, 1, b"first")
    await until((tmp_path / "begun").exists)
    others = [ask(worker, number, b"x%d" % number) for number in (2, 3, 4)]
    if prefetch:
        await until((tmp_path / "prepared-x4").exists)
    (tmp_path / "open").touch()
    assert await first.bodies() == ["first"]
    assert [await one.bodies() for one in others] == [["x2"], ["x3"], ["x4"]]
    assert len([one for one in events.records if cure in one.text]) == 1
    await worker.stop(5)


@pytest.mark.parametrize("command", [b"segfault", b"exit"])
async def test_a_crash_ends_the_worker_as_without_threads(
    backend, spec: Spec, command: bytes
) -> None:
    worker = await backend.start(spec(COMMANDS, prefetch=True))
    ask(worker, 1, command)
    reason = await asyncio.wait_for(worker.exited(), 30)
    assert (reason.code, reason.signal) == (
        (3, None) if command == b"exit" else (None, signal.SIGSEGV)
    )
