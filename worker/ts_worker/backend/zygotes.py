"""The server's zygotes: one that forks workers and a spare, itself forked, that takes over.

`process` asks for forks here; `ts_worker.runtime.zygote` is the other side.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence

from ts_worker.backend.children import Child, Nursery
from ts_worker.backend.spawning import yielding

log = logging.getLogger(__name__)

_PID = struct.Struct("!q")
_ATTEMPTS = 3
_FORK_SECONDS = 10.0  # a fork takes milliseconds: a zygote that needs more is stuck
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ZygoteGone(Exception):
    """The zygote ended before it answered."""


class CannotFork(Exception):
    """No zygote may fork: an import started a thread, or ended the process."""


class Zygote:
    """One zygote process and the socket it takes orders from."""

    def __init__(
        self, child: Child, control: socket.socket, lifeline: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        control.setblocking(False)
        self.child = child
        self._control = control
        self._lifeline = lifeline
        self._loop = loop

    async def receive(self) -> bytes:
        """One packet.

        Raises:
            ZygoteGone: it ended.
        """
        try:
            data = await self._loop.sock_recv(self._control, 1 << 20)
        except ConnectionError as error:
            raise ZygoteGone from error
        if not data:
            raise ZygoteGone
        return data

    async def fork(self, letter: bytes, descriptors: Sequence[int]) -> int:
        """Have it fork a child that owns copies of the descriptors; returns the child's pid.

        Raises:
            ZygoteGone: it ended, or does not answer and is ended.
            CannotFork: it has threads, or the kernel refused.
        """
        try:
            socket.send_fds(self._control, [letter], descriptors)
            async with asyncio.timeout(_FORK_SECONDS):
                (pid,) = _PID.unpack(await self.receive())
        except OSError as error:  # a TimeoutError is one
            self.child.kill()
            raise ZygoteGone from error
        except asyncio.CancelledError:
            # Its answer is still to come and would be taken for that to the next request.
            self.child.kill()
            raise
        if pid < 0:
            raise CannotFork(f"the zygote has {-pid} threads")
        if pid == 0:
            raise CannotFork("the kernel refused: too many processes, or no memory")
        return int(pid)

    def close(self) -> None:
        """Let it go: the kernel kills it when its lifeline closes."""
        self._control.close()
        os.close(self._lifeline)


class Zygotes:
    """Keeps one zygote ready to fork, and a spare.

    Args:
        environ: the server's environment; workers whose import-time variables are the same can
            be forked.
    """

    def __init__(self, nursery: Nursery, environ: Mapping[str, str]) -> None:
        self._nursery = nursery
        self._environ = dict(environ)
        self._loop = asyncio.get_running_loop()
        self._busy = asyncio.Lock()
        self._active: Zygote | None = None
        self._spare: Zygote | None = None
        self._first: asyncio.Task[None] | None = None
        self._renewals: set[asyncio.Task[None]] = set()
        self._closed = False
        self._failures = 0
        self.modules: frozenset[str] = frozenset()

    def start(self) -> None:
        """Begin to import torch in the background; `fork` waits until that is done."""
        self._first = self._loop.create_task(self._renew(), name="zygote")

    async def close(self) -> None:
        """End both zygotes. Workers live on until their own lifelines close."""
        self._closed = True
        tasks = [task for task in (self._first, *self._renewals) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for zygote in (self._active, self._spare):
            if zygote is not None:
                zygote.close()
                await zygote.child.ended
        self._active = self._spare = None

    async def ready(self) -> None:
        """Wait until a zygote can fork."""
        if self._first is not None:
            await asyncio.shield(self._first)

    def retry(self) -> None:
        """Try once more to have a zygote, in the background, after `ready` came without one."""
        if not self._renewals:
            self._renew_soon()

    async def fork(self, descriptors: Sequence[int]) -> Child:
        """Fork a worker that owns copies of connection, stdout, stderr and lifeline.

        Raises:
            ZygoteGone: it ended meanwhile, and may have forked before: try with other descriptors.
            CannotFork: use a fresh interpreter instead.
        """
        await self.ready()
        async with self._busy:
            zygote = self._active or await self._successor()
            try:
                with self._nursery.expecting():
                    pid = await zygote.fork(b"W", descriptors)
                    return self._nursery.adopt(pid)
            except ZygoteGone:
                self._drop(zygote)
                raise

    async def _renew(self) -> None:
        """Make sure there is an active zygote and a spare."""
        async with self._busy:
            for _ in range(_ATTEMPTS):
                try:
                    if self._closed:
                        return
                    zygote = self._active or await self._successor()
                    if self._spare is None:
                        self._spare = await self._fork_spare(zygote)
                    return
                except ZygoteGone:
                    self._drop(zygote)
                except CannotFork as error:
                    log.warning("Workers can't be forked: %s", error)
                    return

    async def _successor(self) -> Zygote:
        if self._spare is not None:
            log.warning("The zygote ended; its spare takes over")
            self._active, self._spare = self._spare, None
            self._renew_soon()
        elif self._failures < _ATTEMPTS:
            self._active = await self._execute()
        else:
            raise CannotFork("the zygote ended several times while it imported its modules")
        return self._active

    def _drop(self, zygote: Zygote) -> None:
        """Forget a zygote that ended; each is closed once, by whoever notices first."""
        if zygote is self._active:
            self._active = None
        elif zygote is self._spare:
            self._spare = None
        else:
            return
        zygote.close()

    def _ended(self, zygote: Zygote) -> None:
        if self._closed or zygote not in (self._active, self._spare):
            return
        self._drop(zygote)
        self._renew_soon()

    def _renew_soon(self) -> None:
        task = self._loop.create_task(self._renew(), name="zygote renewal")
        self._renewals.add(task)
        task.add_done_callback(self._renewals.discard)

    def _enroll(self, pid: int, control: socket.socket, lifeline: int) -> Zygote:
        zygote = Zygote(self._nursery.adopt(pid), control, lifeline, self._loop)
        zygote.child.ended.add_done_callback(lambda _: self._ended(zygote))
        return zygote

    async def _execute(self) -> Zygote:
        try:
            zygote = self._spawn()
        except OSError as error:
            raise CannotFork(f"the zygote can't be started: {error}") from error
        try:
            self.modules = frozenset(json.loads(await zygote.receive()))
        except BaseException as error:
            zygote.child.kill()
            status = await asyncio.shield(zygote.child.ended)
            zygote.close()
            if isinstance(error, ZygoteGone):
                self._failures += 1
                raise CannotFork(f"the zygote ended while importing: {status}") from error
            raise
        self._failures = 0
        return zygote

    def _spawn(self) -> Zygote:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)
            undo.callback(theirs.close)
            read_end, write_end = os.pipe()
            undo.callback(os.close, write_end)
            undo.callback(os.close, read_end)
            fds = (theirs.fileno(), read_end)
            with self._nursery.expecting():
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "ts_worker.runtime.zygote", *map(str, fds)],
                    env=yielding(self._environ) | dict.fromkeys(_ONE_THREAD, "1"),
                    pass_fds=fds,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                )
                zygote = self._enroll(process.pid, ours, write_end)
            undo.pop_all()
        theirs.close()
        os.close(read_end)
        process.returncode = 0  # reaped by its Child: Popen must not wait for it as well
        return zygote

    async def _fork_spare(self, zygote: Zygote) -> Zygote:
        with contextlib.ExitStack() as undo:
            try:
                ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                undo.callback(ours.close)
                undo.enter_context(theirs)
                read_end, write_end = os.pipe()
            except OSError as error:
                raise CannotFork(f"no spare zygote: {error}") from error
            undo.callback(os.close, write_end)
            undo.callback(os.close, read_end)
            with self._nursery.expecting():
                pid = await zygote.fork(b"Z", (theirs.fileno(), read_end))
                spare = self._enroll(pid, ours, write_end)
            undo.pop_all()
        theirs.close()
        os.close(read_end)
        return spare
