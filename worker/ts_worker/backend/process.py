"""Workers as local processes: the backend of a single machine.

Built by `ts_frontend.server`; everything else sees only the protocols of `base`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from ts_worker.backend.base import LoadFailed, LoadTimedOut, WorkerSpec
from ts_worker.backend.children import Child, Nursery
from ts_worker.backend.group import RankGroup, rank_specs
from ts_worker.backend.pipes import Pipes
from ts_worker.backend.ports import claim_port
from ts_worker.backend.spawning import reason_to_spawn, spawn
from ts_worker.backend.worker import ProcessWorker
from ts_worker.backend.zygotes import CannotFork, ZygoteGone, Zygotes

log = logging.getLogger(__name__)

_FORK_ATTEMPTS = 3
_WARM_UP_SECONDS = 120.0  # the first import of torch takes seconds, and a minute from a cold disk


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

    async def start(self, spec: WorkerSpec) -> ProcessWorker | RankGroup:
        """See `base.Backend.start`."""
        await self._warm_up(spec)
        try:
            async with asyncio.timeout(spec.startup_timeout) as limit:
                return await self._start(spec, limit)
        except TimeoutError:
            raise LoadTimedOut(spec.startup_timeout) from None

    async def _warm_up(self, spec: WorkerSpec) -> None:
        """Wait until forking is possible; that is the server's time, not the model's."""
        seconds = spec.startup_timeout and max(spec.startup_timeout, _WARM_UP_SECONDS)
        try:
            async with asyncio.timeout(seconds):
                await self.ready()
        except TimeoutError:
            text = f"The process that forks workers did not import torch within {seconds} s."
            raise LoadFailed(500, text) from None

    async def _start(self, spec: WorkerSpec, limit: asyncio.Timeout) -> ProcessWorker | RankGroup:
        launch = asyncio.ensure_future(self._launch(spec))
        try:
            worker = await asyncio.shield(launch)
        except asyncio.CancelledError:
            await _end_of(launch)
            if not launch.cancelled() and launch.exception() is None:
                await launch.result().kill()
            raise
        try:
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

    async def _launch(self, spec: WorkerSpec) -> ProcessWorker | RankGroup:
        if spec.ranks is None:
            return await self._launch_process(spec)
        port = claim_port(spec.ranks.first_port)
        ranks: list[ProcessWorker] = []
        try:
            for one in rank_specs(spec, spec.ranks, port.number):
                ranks.append(await self._launch_process(one))
        except BaseException:
            for rank in ranks:
                await rank.kill()
            port.release()
            raise
        return RankGroup(spec, ranks, port.release)

    async def _launch_process(self, spec: WorkerSpec) -> ProcessWorker:
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
        worker.when_gone(lambda _: self._workers.discard(worker))
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


async def _end_of(task: asyncio.Future[ProcessWorker | RankGroup]) -> None:
    """Wait for a task that has an end of its own, however often the waiting is cancelled."""
    while not task.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
