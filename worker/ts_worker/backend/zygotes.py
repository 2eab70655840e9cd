"""The server's zygotes: one that forks workers and a spare, itself forked, that takes over.

`process` asks for forks here; `ts_worker.runtime.zygote` is the other side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence

from ts_worker.backend.children import Child, Nursery

log = logging.getLogger(__name__)

_PID = struct.Struct("!q")
_ATTEMPTS = 3
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
        """Have it fork a child that owns copies of the descriptors; returns the child's pid."""
        try:
            socket.send_fds(self._control, [letter], descriptors)
        except OSError as error:
            raise ZygoteGone from error
        (pid,) = _PID.unpack(await self.receive())
        if pid < 0:
            raise CannotFork(f"the zygote has {-pid} threads")
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

    async def fork(self, descriptors: Sequence[int]) -> Child:
        """Fork a worker that owns copies of connection, stdout, stderr and lifeline.

        Raises:
            CannotFork: use a fresh interpreter instead.
        """
        await self.ready()
        async with self._busy:
            while True:
                zygote = self._active or await self._successor()
                try:
                    with self._nursery.expecting():
                        pid = await zygote.fork(b"W", descriptors)
                        return self._nursery.adopt(pid)
                except ZygoteGone:
                    self._drop(zygote)

    async def _renew(self) -> None:
        """Make sure there is an active zygote and a spare."""
        async with self._busy:
            while not self._closed:
                try:
                    zygote = self._active or await self._successor()
                    if self._spare is not None:
                        return
                    self._spare = await self._fork_spare(zygote)
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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_end, write_end = os.pipe()
        with theirs, self._nursery.expecting():
            fds = (theirs.fileno(), read_end)
            # Blocks for the exec only; an asyncio subprocess would want to reap it itself.
            process = subprocess.Popen(  # noqa: ASYNC220
                [sys.executable, "-P", "-m", "ts_worker.runtime.zygote", *map(str, fds)],
                env=self._environ | dict.fromkeys(_ONE_THREAD, "1"),
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            os.close(read_end)
            zygote = self._enroll(process.pid, ours, write_end)
        process.returncode = 0  # reaped by its Child: Popen must not wait for it as well
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

    async def _fork_spare(self, zygote: Zygote) -> Zygote:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        read_end, write_end = os.pipe()
        try:
            with theirs, self._nursery.expecting():
                pid = await zygote.fork(b"Z", (theirs.fileno(), read_end))
                return self._enroll(pid, ours, write_end)
        except BaseException:
            ours.close()
            os.close(write_end)
            raise
        finally:
            os.close(read_end)
