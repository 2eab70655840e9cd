"""Workers as local processes: the backend of a single machine.

Built by `ts_frontend.server`; everything else sees only the protocols of `base`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from ts_worker.backend.base import (
    Batch,
    ExitReason,
    LoadFailed,
    LoadTimedOut,
    ReplySink,
    WorkerGone,
    WorkerSpec,
)
from ts_worker.backend.children import Child, Nursery
from ts_worker.backend.connection import Connection, LineReader
from ts_worker.backend.pipes import Pipes
from ts_worker.backend.spawning import reason_to_spawn, spawn
from ts_worker.backend.stacks import StackReader
from ts_worker.backend.zygotes import CannotFork, ZygoteGone, Zygotes
from ts_worker.messages import (
    Call,
    Cancel,
    Load,
    Loaded,
    Log,
    Message,
    Metric,
    Reply,
    ReplyChunk,
    Threads,
)

log = logging.getLogger(__name__)

_TAIL_LINES = 50
_FORK_ATTEMPTS = 3


@dataclass(slots=True)
class _Sent:
    """A batch the worker has not answered to its end."""

    batch: Batch
    sink: ReplySink
    unanswered: int  # of its requests; each is answered once


class ProcessWorker:
    """One worker process, from its birth to its end."""

    def __init__(self, spec: WorkerSpec, child: Child, pipes: Pipes) -> None:
        self._spec = spec
        self._child = child
        self._pipes = pipes
        loop = asyncio.get_running_loop()
        self._batches: dict[int, _Sent] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._stacks: StackReader | None = None
        self._loaded: asyncio.Future[Loaded] = loop.create_future()
        self._gone: asyncio.Future[ExitReason] = loop.create_future()
        self._connection = Connection(pipes.connection, loop, self._received, self._broken)
        self._output = [
            LineReader(pipes.stdout, loop, partial(self._line, "stdout")),
            LineReader(pipes.stderr, loop, partial(self._line, "stderr")),
        ]
        child.ended.add_done_callback(lambda _: self._ended())

    @property
    def id(self) -> str:
        return self._spec.id

    @property
    def pid(self) -> int | None:
        return self._child.pid

    @property
    def device(self) -> int | None:
        return self._spec.device

    async def load(self) -> None:
        """Load the model.

        Raises:
            LoadFailed: the handler raised, or the process ended.
        """
        self._connection.send(_load_message(self._spec))
        await asyncio.wait((self._loaded, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            reason = self._gone.result()
            code = 507 if reason.signal == 9 else 500
            text = f"the worker process ended while it loaded the model: {reason.text}"
            raise LoadFailed(code, text, "\n".join(reason.stderr_tail))
        outcome = self._loaded.result()
        if outcome.code != 200:
            raise LoadFailed(outcome.code, outcome.message, outcome.traceback)

    def predict(self, batch: Batch, reply: ReplySink) -> None:
        if self._child.ended.done():
            raise WorkerGone
        self._batches[batch.batch_id] = _Sent(batch, reply, len(batch.requests))
        self._connection.send(batch)

    def cancel(self, request_id: bytes) -> None:
        self._connection.send(Cancel(request_id))

    def hold(self, on: bool) -> None:
        self._connection.hold(on)

    def resize(self, threads: int) -> None:
        self._connection.send(Threads(threads))

    async def stop(self, grace: float) -> None:
        self._connection.hang_up()
        try:
            async with asyncio.timeout(grace):
                await asyncio.shield(self._gone)
        except TimeoutError:
            await self.kill()

    async def stacks(self) -> str:
        """Where its threads stand; where it can't tell, the last lines it wrote to stderr."""
        self._stacks = StackReader()
        self._child.signal(signal.SIGUSR2)
        return await self._stacks.read() or "\n".join(self._tail)

    async def kill(self) -> None:
        """End the process group at once and wait for it."""
        self._child.kill()
        await asyncio.shield(self._gone)

    async def exited(self) -> ExitReason:
        return await asyncio.shield(self._gone)

    def _received(self, message: Message) -> None:
        match message:
            case Reply():
                self._reply(message)
            case ReplyChunk():
                self._reply_chunk(message)
            case Metric():
                self._spec.events.metric(message)
            case Log():
                self._spec.events.log(message)
            case Loaded():
                if not self._loaded.done():
                    self._loaded.set_result(message)
            case Call():
                task = asyncio.get_running_loop().create_task(self._call(message))
                self._calls.add(task)
                task.add_done_callback(self._calls.discard)
            case _:
                log.warning("Worker %s sent a frame %s", self.id, type(message).__name__)

    def _reply(self, message: Reply) -> None:
        entry = self._batches.get(message.batch_id)
        if entry is None:
            return
        entry.unanswered -= len(message.responses)
        whole = message.code != 200 and not message.responses
        if whole or entry.unanswered <= 0:
            del self._batches[message.batch_id]
        entry.sink(message)

    def _reply_chunk(self, message: ReplyChunk) -> None:
        for entry in self._batches.values():
            if any(request.id == message.request_id for request in entry.batch.requests):
                entry.sink(message)
                return

    async def _call(self, call: Call) -> None:
        self._connection.send(await self._spec.events.call(call))

    def _line(self, stream: str, line: str) -> None:
        if stream == "stderr":
            self._tail.append(line)
            if self._stacks is not None:
                self._stacks.add(line)
        self._spec.events.output(stream, line)

    def _broken(self, error: Exception | None) -> None:
        if error is not None:
            log.error("Worker %s is ended: its connection broke: %s", self.id, error)
        # Hanging up is how a worker ends by itself; it gets a moment to exit with its own code.
        asyncio.get_running_loop().call_later(1.0 if error is None else 0.0, self._child.kill)

    def _ended(self) -> None:
        """The process is gone: take in its last words, then tell who waits, whatever happens."""
        try:
            self._connection.drain()
            for reader in self._output:
                reader.close()
            self._connection.close()
            os.close(self._pipes.lifeline)
            for task in self._calls:
                task.cancel()
            self._batches.clear()
        finally:
            status = self._child.ended.result()
            reason = ExitReason(status.code, status.signal, str(status), tuple(self._tail))
            self._gone.set_result(reason)


class ProcessBackend:
    """Forks workers from a zygote, or spawns them where a fork would be wrong.

    Args:
        environ: the server's environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._nursery: Nursery | None = None
        self._zygotes: Zygotes | None = None
        self._workers: set[ProcessWorker] = set()

    async def open(self) -> None:
        """Begin to warm up the zygote. Runs on the main thread, inside the event loop."""
        self._nursery = Nursery(asyncio.get_running_loop())
        self._nursery.open()
        self._zygotes = Zygotes(self._nursery, self._environ)
        self._zygotes.start()

    async def ready(self) -> None:
        """Wait until forking is possible."""
        assert self._zygotes is not None
        await self._zygotes.ready()

    async def start(self, spec: WorkerSpec) -> ProcessWorker:
        """See `base.Backend.start`."""
        try:
            async with asyncio.timeout(spec.startup_timeout) as limit:
                return await self._start(spec, limit)
        except TimeoutError:
            raise LoadTimedOut(spec.startup_timeout) from None

    async def _start(self, spec: WorkerSpec, limit: asyncio.Timeout) -> ProcessWorker:
        await self.ready()
        launch = asyncio.ensure_future(self._launch(spec))
        try:
            worker = await asyncio.shield(launch)
        except asyncio.CancelledError:
            await _end_of(launch)
            if not launch.cancelled() and launch.exception() is None:
                await launch.result().kill()
            raise
        try:
            spec.events.started(worker._child.pid)
            await worker.load()
        except BaseException:
            try:
                stacks = await worker.stacks() if limit.expired() else ""
            finally:
                await worker.kill()
            if stacks:
                raise LoadTimedOut(spec.startup_timeout, stacks) from None
            raise
        return worker

    async def close(self) -> None:
        """See `base.Backend.close`."""
        for worker in list(self._workers):
            await worker.kill()
        if self._zygotes is not None and self._nursery is not None:
            await self._zygotes.close()
            self._nursery.close()

    async def _launch(self, spec: WorkerSpec) -> ProcessWorker:
        assert self._zygotes is not None
        reason = reason_to_spawn(spec, self._zygotes.modules, self._environ)
        if not self._zygotes.modules:
            self._zygotes.retry()
            reason = "there is no zygote"
        if reason is None:
            try:
                return await self._fork(spec)
            except CannotFork as error:
                reason = str(error)
        log.info("Worker %s gets a fresh interpreter: %s", spec.id, reason)
        pipes = Pipes()
        with pipes.handed_over() as descriptors:
            child = self._spawn(spec, descriptors)
        return self._enroll(spec, child, pipes)

    async def _fork(self, spec: WorkerSpec) -> ProcessWorker:
        """Raises `CannotFork`."""
        assert self._zygotes is not None
        for _ in range(_FORK_ATTEMPTS):
            # New ones for each attempt: a zygote that died may have forked a child before.
            pipes = Pipes()
            with contextlib.suppress(ZygoteGone):
                with pipes.handed_over() as descriptors:
                    child = await self._zygotes.fork(descriptors)
                return self._enroll(spec, child, pipes)
        raise CannotFork("the zygote ended each time it was to fork")

    def _enroll(self, spec: WorkerSpec, child: Child, pipes: Pipes) -> ProcessWorker:
        worker = ProcessWorker(spec, child, pipes)
        self._workers.add(worker)
        worker._gone.add_done_callback(lambda _: self._workers.discard(worker))
        return worker

    def _spawn(self, spec: WorkerSpec, descriptors: tuple[int, int, int, int]) -> Child:
        assert self._nursery is not None
        with self._nursery.expecting():
            try:
                process = spawn(spec, descriptors)
            except OSError as error:
                raise LoadFailed(500, f"the interpreter can't be started: {error}") from error
            child = self._nursery.adopt(process.pid)
        process.returncode = 0  # reaped by its Child: Popen must not wait for it as well
        return child


async def _end_of(task: asyncio.Future[ProcessWorker]) -> None:
    """Wait for a task that has an end of its own, however often the waiting is cancelled."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])


def _load_message(spec: WorkerSpec) -> Load:
    return Load(
        spec.model_name,
        spec.model_version,
        spec.model_dir,
        spec.handler,
        spec.batch_size,
        spec.device,
        spec.envelope,
        spec.limit_max_image_pixels,
        spec.decode_input_request,
        spec.metrics_config,
        spec.threads,
        spec.import_paths,
        tuple(spec.env.items()),
    )
