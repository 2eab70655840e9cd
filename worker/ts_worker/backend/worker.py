"""One worker process as the server sees it, from its birth to its end. Made by `process`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from ts_worker.backend.base import Batch, ExitReason, LoadFailed, ReplySink, WorkerGone, WorkerSpec
from ts_worker.backend.children import Child
from ts_worker.backend.connection import Connection, LineReader
from ts_worker.backend.pipes import Pipes
from ts_worker.backend.stacks import StackReader
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


@dataclass(slots=True)
class _Sent:
    """A batch the worker has not answered to its end."""

    batch: Batch
    sink: ReplySink
    unanswered: int  # of its requests; each is answered once


class ProcessWorker:
    """A process with one connection, which may be a whole worker or one rank of it."""

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

    @property
    def begun(self) -> bool:
        return True

    @property
    def ended(self) -> bool:
        """Whether the process has ended; what it wrote last may still be read."""
        return self._child.ended.done()

    @property
    def idle(self) -> bool:
        """Whether every batch it was sent is answered."""
        return not self._batches

    def when_gone(self, call: Callable[[ExitReason], None]) -> None:
        """Have ``call`` told of the end, once everything that it wrote is read."""
        self._gone.add_done_callback(lambda gone: call(gone.result()))

    async def load(self) -> None:
        """Load the model.

        Raises:
            LoadFailed: the handler raised, or the process ended.
        """
        self._spec.events.started(self._child.pid)
        self._connection.send(_load_message(self._spec))
        await asyncio.wait((self._loaded, self._gone), return_when=asyncio.FIRST_COMPLETED)
        if not self._loaded.done():
            raise ended_early(self._gone.result())
        outcome = self._loaded.result()
        if outcome.code != 200:
            raise LoadFailed(outcome.code, outcome.message, outcome.traceback)

    def predict(self, batch: Batch, reply: ReplySink) -> None:
        if self._child.ended.done():
            raise WorkerGone
        idle = not self._batches
        self._batches[batch.batch_id] = _Sent(batch, reply, len(batch.requests))
        self._connection.send(batch, at_once=idle)

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

    def doom(self) -> None:
        """End the process group at once, and wait for nothing."""
        self._child.kill()

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


def ended_early(reason: ExitReason) -> LoadFailed:
    """The failure of a load whose process has ended."""
    code = 507 if reason.signal == signal.SIGKILL else 500
    text = f"the worker process ended while it loaded the model: {reason.text}"
    return LoadFailed(code, text, "\n".join(reason.stderr_tail))


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
        spec.prefetch,
        spec.rank,
        spec.ranks is not None and spec.ranks.all_predict and spec.ranks.count > 1,
    )
