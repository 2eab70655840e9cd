"""Child processes of the server: noticing their end, reaping them, and reaping what they leave.

Used by `zygotes` and `process`. Linux only: pidfd and child subreaper.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: an exit code or a signal, never both."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        with contextlib.suppress(ValueError):
            return f"killed by {signal.Signals(self.signal).name}"
        return f"killed by signal {self.signal}"


class Child:
    """A process whose parent is this server, or becomes it when the one in between exits.

    Its end is known from a pidfd, never from a closed socket, which a grandchild may hold open.
    What is left of its process group is killed before the pid is given back to the kernel.
    """

    def __init__(self, pid: int, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = pid
        self.ended: asyncio.Future[ExitStatus] = loop.create_future()
        self._loop = loop
        self._pidfd = os.pidfd_open(pid)
        loop.add_reader(self._pidfd, self._reap)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Signal the whole process group; nothing happens once the process has ended."""
        if not self.ended.done():
            self._signal_group(signum)

    def signal(self, signum: int) -> None:
        """Signal the process alone; nothing happens once it has ended."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def _signal_group(self, signum: int) -> None:
        try:
            os.killpg(self.pid, signum)
        except ProcessLookupError:
            # Just forked and not yet leader of a group of its own.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signum)

    def _reap(self) -> None:
        try:
            peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
            if os.waitid(os.P_PIDFD, self._pidfd, peek) is None:
                return
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            info = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        except ChildProcessError:
            # Ended before the process between us and it did: it is ours in a moment.
            self._loop.remove_reader(self._pidfd)
            self._loop.call_later(0.005, self._loop.add_reader, self._pidfd, self._reap)
            return
        assert info is not None
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        exited = info.si_code == os.CLD_EXITED
        status = ExitStatus(info.si_status if exited else None, None if exited else info.si_status)
        if not self.ended.done():
            self.ended.set_result(status)


class Nursery:
    """Makes the server the parent of every orphan below it, and reaps the ones nobody knows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._known: dict[int, Child] = {}
        self._expected = 0

    def open(self) -> None:
        """Become a subreaper. Must run in the main thread, which alone may handle signals."""
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        # Not loop.add_signal_handler: uvloop keeps SIGCHLD to itself.
        signal.signal(signal.SIGCHLD, self._child_ended)

    def close(self) -> None:
        """Stop reaping."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)

    def _child_ended(self, _signum: int, _frame: object) -> None:
        self._loop.call_soon_threadsafe(self.reap_orphans)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """While a fork is under way its pid is not known yet: reap nobody's child."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    def adopt(self, pid: int) -> Child:
        """Watch a process that was just started for us."""
        child = Child(pid, self._loop)
        self._known[pid] = child
        child.ended.add_done_callback(lambda _: self._forget(pid))
        return child

    def _forget(self, pid: int) -> None:
        self._known.pop(pid, None)
        self.reap_orphans()

    def reap_orphans(self) -> None:
        """Reap ended processes that a worker left behind.

        A process in the server's own session was started by a library call that waits for it
        itself; it is left alone.
        """
        while not self._expected:
            try:
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if info is None or info.si_pid in self._known:
                    return
                if os.getsid(info.si_pid) == os.getsid(0):
                    return
                os.waitpid(info.si_pid, 0)
            except (ChildProcessError, ProcessLookupError):
                return
