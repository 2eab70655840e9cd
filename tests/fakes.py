"""Stand-ins for what surrounds the core: a backend in memory, a meter, a log, a loop whose time
is virtual. Tests of the core and of the edges build servers from them without a process.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, get_args

from ts_frontend.core.job import Answer, Job, Kind
from ts_frontend.core.meter import Departure, PlainCount, Refusal, RestartReason
from ts_frontend.core.slot import Slot
from ts_frontend.errors import ServeError
from ts_worker.backend.base import (
    ExitReason,
    LoadFailed,
    LoadTimedOut,
    ReplySink,
    WorkerGone,
    WorkerSpec,
)
from ts_worker.messages import (
    Metric,
    Param,
    Predict,
    Reply,
    ReplyChunk,
    Request,
    Response,
)

T = TypeVar("T")

__all__ = [
    "AwaitedJob",
    "FakeBackend",
    "FakeLog",
    "FakeMeter",
    "FakeModelMeter",
    "FakeRank",
    "FakeVersionMeter",
    "FakeWorker",
    "LoadFailed",
    "VirtualLoop",
    "a_job",
    "echo",
    "hold",
    "make_request",
    "run_virtual",
]


def make_request(body: bytes = b"hello", id: bytes | None = None) -> Request:
    """A request with one raw body."""
    return Request(id or str(uuid.uuid4()).encode(), b"", (Param("body", "", body),))


class AwaitedJob(Job):
    """A job with a future that its answer goes to."""

    def __init__(self, kind: Kind) -> None:
        self.future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        super().__init__(make_request(), self._tell, kind)

    def _tell(self, outcome: Answer | ServeError) -> None:
        if isinstance(outcome, ServeError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


def a_job(kind: Kind = "predict") -> AwaitedJob:
    """A job for a queue."""
    return AwaitedJob(kind)


Behaviour = Callable[["FakeWorker", Predict, ReplySink], None]


def echo(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
    """Answer each request with its first input, one turn of the loop later."""
    asyncio.get_running_loop().call_soon(worker.answer, batch, reply)


def hold(worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
    """Answer nothing until the test calls `FakeWorker.finish`."""


class FakeWorker:
    """A worker in memory. ``batches`` are all it was sent, ``current`` what it still owes."""

    def __init__(self, spec: WorkerSpec, pid: int, behaviour: Behaviour) -> None:
        self.spec = spec
        self.id = spec.id
        self.pid: int | None = pid
        self.device = spec.device
        self.threads = spec.threads
        self.behaviour = behaviour
        self.batches: list[Predict] = []
        self.current: deque[tuple[Predict, ReplySink]] = deque()
        self.cancelled: list[bytes] = []
        self.held = False
        self.begun = True
        self.stops: list[float] = []
        self.exit: ExitReason | None = None
        self._exited = asyncio.get_running_loop().create_future()
        self._sent = asyncio.Event()

    def predict(self, batch: Predict, reply: ReplySink) -> None:
        if self.exit is not None:
            raise WorkerGone
        self.batches.append(batch)
        self.current.append((batch, reply))
        self._sent.set()
        self.behaviour(self, batch, reply)

    def cancel(self, request_id: bytes) -> None:
        self.cancelled.append(request_id)

    def hold(self, on: bool) -> None:
        self.held = on

    def resize(self, threads: int) -> None:
        self.threads = threads

    async def stop(self, grace: float) -> None:
        self.stops.append(grace)
        self.die(None, 15, "stopped")

    async def exited(self) -> ExitReason:
        return await asyncio.shield(self._exited)

    # What tests do to it.

    def die(
        self,
        code: int | None,
        signal: int | None,
        text: str = "the process died",
        timed_out: bool = False,
    ) -> None:
        """End the process; nothing is answered from now on."""
        if self.exit is None:
            self.exit = ExitReason(code, signal, text, ("last line",), timed_out)
            self._exited.set_result(self.exit)

    async def received(self, count: int = 1) -> None:
        """Wait until this many batches have come."""
        while len(self.batches) < count:
            self._sent.clear()
            await self._sent.wait()

    def finish(self, code: int = 200, message: str = "") -> None:
        """Answer the oldest open batch with echoes, or with an error code."""
        batch, reply = self.current[0]
        if code == 200:
            self.answer(batch, reply)
        else:
            self.current.popleft()
            reply(Reply(batch.batch_id, code, message, ()))

    def die_with_an_answer(self) -> None:
        """End the process; its last answer is read before its end is known."""
        batch, reply = self.current[0]
        self.exit = ExitReason(0, None, "the process ended")
        self._answer(batch, reply)
        self._exited.set_result(self.exit)

    def answer(self, batch: Predict, reply: ReplySink) -> None:
        """Answer a batch with echoes, unless the process has died meanwhile."""
        if self.exit is None:
            self._answer(batch, reply)

    def _answer(self, batch: Predict, reply: ReplySink) -> None:
        self.current.remove((batch, reply))
        rows = [
            Response(one.id, 200, "", b"", one.params[0].value if one.params else b"{}")
            for one in batch.requests
        ]
        reply(Reply(batch.batch_id, 200, "Prediction success", tuple(rows)))

    def chunk(self, body: bytes, index: int = 0) -> None:
        """Stream a part of the answer to one request of the oldest open batch."""
        batch, reply = self.current[0]
        reply(ReplyChunk(batch.requests[index].id, 200, "", b"", body))


class FakeBackend:
    """A backend in memory.

    Args:
        behaviour: what workers do with a batch.

    ``load`` may be set to a coroutine function of the spec: it can wait on an event or raise
    `LoadFailed`. ``specs`` are all starts that were asked for, ``workers`` all that succeeded.
    """

    def __init__(self, behaviour: Behaviour = echo) -> None:
        self.behaviour = behaviour
        self.load: Callable[[WorkerSpec], Awaitable[None]] | None = None
        self.specs: list[WorkerSpec] = []
        self.start_times: list[float] = []
        self.workers: list[FakeWorker] = []
        self.starting = 0
        self.killed = 0
        self._pids = itertools.count(4_000_000)  # beyond any real process
        self._changed = asyncio.Event()

    async def start(self, spec: WorkerSpec) -> FakeWorker:
        pid = next(self._pids)
        self.specs.append(spec)
        self.start_times.append(asyncio.get_running_loop().time())
        spec.events.started(pid)
        self.starting += 1
        self._changed.set()
        try:
            async with asyncio.timeout(spec.startup_timeout):
                if self.load is not None:
                    await self.load(spec)
        except asyncio.CancelledError:
            self.killed += 1
            raise
        except TimeoutError:
            self.killed += 1
            raise LoadTimedOut(spec.startup_timeout, "Thread 1\n  in initialize") from None
        finally:
            self.starting -= 1
        worker = FakeWorker(spec, pid, self.behaviour)
        self.workers.append(worker)
        self._changed.set()
        return worker

    async def close(self) -> None:
        for worker in self.alive:
            worker.die(None, 9)

    @property
    def alive(self) -> list[FakeWorker]:
        """Workers whose process runs."""
        return [worker for worker in self.workers if worker.exit is None]

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that is true after some start."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()


class FakeRank:
    """One process of a worker that has several, in memory."""

    def __init__(self, number: int) -> None:
        self.pid = 4_000_000 + number
        self.ended = False
        self.loading = False
        self.load_result: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.batches: list[Predict] = []
        self.cancelled: list[bytes] = []
        self.held = False
        self.threads = 0
        self.stops: list[float] = []
        self._open: deque[tuple[Predict, ReplySink]] = deque()
        self._when_gone: list[Callable[[ExitReason], None]] = []
        self._gone = asyncio.get_running_loop().create_future()

    @property
    def idle(self) -> bool:
        return not self._open

    def when_gone(self, call: Callable[[ExitReason], None]) -> None:
        self._when_gone.append(call)

    async def load(self) -> None:
        self.loading = True
        await self.load_result

    def predict(self, batch: Predict, reply: ReplySink) -> None:
        self.batches.append(batch)
        self._open.append((batch, reply))

    def cancel(self, request_id: bytes) -> None:
        self.cancelled.append(request_id)

    def hold(self, on: bool) -> None:
        self.held = on

    def resize(self, threads: int) -> None:
        self.threads = threads

    async def stop(self, grace: float) -> None:
        self.stops.append(grace)
        await asyncio.shield(self._gone)

    def doom(self) -> None:
        self.end(ExitReason(None, 9, "killed by SIGKILL"))

    # What tests do to it.

    def finish(self, message: str = "") -> None:
        """Answer the oldest open batch."""
        batch, reply = self._open.popleft()
        rows = tuple(Response(one.id, 200, "", b"", b"") for one in batch.requests)
        reply(Reply(batch.batch_id, 200, message, rows))

    def say(self, reply: Reply) -> None:
        """Send something about the oldest open batch that does not end it."""
        self._open[0][1](reply)

    def end(self, reason: ExitReason) -> None:
        """End the process."""
        if self.ended:
            return
        self.ended = True
        for call in self._when_gone:
            asyncio.get_running_loop().call_soon(call, reason)
        if self.loading and not self.load_result.done():
            self.load_result.set_exception(LoadFailed(507, "killed by SIGKILL"))
        self._gone.set_result(None)


class FakeModelMeter:
    """Counts of one model."""

    def __init__(self) -> None:
        self.requests = 0
        self.answers: list[tuple[float, float]] = []

    def accepted(self) -> None:
        self.requests += 1

    def answered(self, total_microseconds: float, queue_microseconds: float) -> None:
        self.answers.append((total_microseconds, queue_microseconds))


class FakeVersionMeter:
    """What happened to the workers of one version."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, float]] = []
        self.restarts: list[RestartReason] = []
        self.departures = {reason: PlainCount() for reason in get_args(Departure)}
        self.refusals = {when: PlainCount() for when in get_args(Refusal)}
        self.slots: list[Slot] = []

    def batch(self, size: int, seconds: float) -> None:
        self.batches.append((size, seconds))

    def restarted(self, reason: RestartReason) -> None:
        self.restarts.append(reason)

    def joined(self, slot: Slot) -> None:
        self.slots.append(slot)

    def left(self, slot: Slot) -> None:
        self.slots.remove(slot)


class FakeMeter:
    """Keeps what the core measured."""

    def __init__(self) -> None:
        self.models: dict[tuple[str, str], FakeModelMeter] = {}
        self.versions: dict[tuple[str, str], FakeVersionMeter] = {}
        self.thread_times: list[int] = []
        self.load_times: list[tuple[str, int]] = []
        self.metrics: list[Metric] = []

    def meter(self, model: str, version: str) -> FakeModelMeter:
        found = self.models.get((model, version))
        if found is None:
            found = self.models[model, version] = FakeModelMeter()
        return found

    def version(self, model: str, version: str) -> FakeVersionMeter:
        return self.versions.setdefault((model, version), FakeVersionMeter())

    def worker_thread_time(self, milliseconds: int) -> None:
        self.thread_times.append(milliseconds)

    def worker_load_time(self, worker: str, milliseconds: int) -> None:
        self.load_times.append((worker, milliseconds))

    def model_metric(self, metric: Metric, model: str, version: str) -> None:
        self.metrics.append(metric)


class FakeLog:
    """Keeps what workers wrote: (worker, stream, level, text), and (model, version, ids)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, int, str]] = []
        self.fields: list[tuple[str, str, str]] = []

    def model(
        self,
        worker: str,
        stream: str,
        level: int,
        text: str,
        *,
        model: str,
        version: str,
        request_ids: str = "",
    ) -> None:
        self.lines.append((worker, stream, level, text))
        self.fields.append((model, version, request_ids))


class _JumpingSelector(selectors.DefaultSelector):
    """Lets the loop's clock jump to the next timer instead of waiting for it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: every task waits and no timer is set")
            self.loop.now += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that needs no real time: minutes of back-off pass at once, in exact order.

    Work for threads runs in place, so that time can't jump while a thread is busy.
    """

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 0.0
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine function to its end on a `VirtualLoop`."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
