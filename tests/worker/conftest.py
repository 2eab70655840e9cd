"""A real process backend, shared by a test module, and workers of small handlers."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
import pytest_asyncio

from ts_worker.backend.base import WorkerSpec
from ts_worker.backend.process import ProcessBackend
from ts_worker.messages import CallReply, Log, Metric, Param, Predict, Reply, ReplyChunk, Request


class Events:
    """Keeps everything a worker tells; tests wait on `changed`."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.lines: list[tuple[str, str]] = []
        self.records: list[Log] = []
        self.metrics: list[Metric] = []

    def started(self, pid: int) -> None:
        self.pids.append(pid)

    def output(self, stream: str, line: str) -> None:
        self.lines.append((stream, line))

    def log(self, record: Log) -> None:
        self.records.append(record)

    def metric(self, metric: Metric) -> None:
        self.metrics.append(metric)

    async def call(self, call) -> CallReply:
        return CallReply(call.call_id, 404, f"Model not found: {call.model_name}", None)


def predict_message(*bodies: bytes, batch_id: int = 1) -> Predict:
    return Predict(
        batch_id,
        tuple(
            Request(f"{batch_id}-{i}".encode(), b"", (Param("body", "", body),))
            for i, body in enumerate(bodies)
        ),
    )


async def ask(worker, *bodies: bytes, batch_id: int = 1) -> tuple[Reply, list[ReplyChunk]]:
    """One batch to a worker: the final reply and the chunks before it."""
    done = asyncio.get_running_loop().create_future()
    chunks: list[ReplyChunk] = []

    def reply(message) -> None:
        chunks.append(message) if isinstance(message, ReplyChunk) else done.set_result(message)

    worker.predict(predict_message(*bodies, batch_id=batch_id), reply)
    exited = asyncio.ensure_future(worker.exited())
    await asyncio.wait((done, exited), return_when=asyncio.FIRST_COMPLETED, timeout=30)
    if done.done():
        exited.cancel()
        return done.result(), chunks
    raise AssertionError(f"the worker ended: {exited.result()}")


async def until(condition, seconds: float = 10.0) -> None:
    """Wait until a condition holds that no event announces."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def alive(pid: int) -> bool:
    """Whether a process runs; one that waits to be reaped does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend():
    backend = ProcessBackend(os.environ)
    await backend.open()
    await backend.ready()
    yield backend
    await backend.close()


@pytest.fixture
def spec(tmp_path: Path):
    """A function that writes a handler into a model folder and describes its worker."""

    def make(source: str, **fields) -> WorkerSpec:
        (tmp_path / "handler_of_test.py").write_text(source)
        return WorkerSpec(
            **{
                "id": "9000",
                "model_name": "m",
                "model_version": "1.0",
                "model_dir": str(tmp_path),
                "handler": "handler_of_test.py",
                "events": Events(),
                "import_paths": (str(tmp_path),),
                "env": dict(os.environ),
            }
            | fields
        )

    return make
