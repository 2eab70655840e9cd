"""When requests of an open loop are due, and a timer that is exact enough to send them then.

Event loops round their timers up to a millisecond, more than a quick model takes to answer.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import random
import time
from collections.abc import Callable, Iterator

_MONOTONIC = 1
_ABSOLUTE = 1


class Alarm:
    """Calls back at one time after another; exact to about 0.1 ms on Linux (timerfd)."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._libc = _libc()
        self._fd: int | None = None
        if self._libc is not None:
            flags = os.O_NONBLOCK | os.O_CLOEXEC
            fd = self._libc.timerfd_create(_MONOTONIC, flags)
            if fd >= 0:
                self._fd = fd
                self._loop.add_reader(fd, self._rung)

    def set(self, at: float) -> None:
        """Ring at ``at``, by time.monotonic, or at once if that is over."""
        if self._fd is None or self._libc is None:
            self._handle = self._loop.call_later(max(at - time.monotonic(), 0), self._ring)
            return
        seconds = int(at)
        # The kernel's itimerspec: no interval, and the time. All zero would switch it off.
        when = (ctypes.c_long * 4)(0, 0, seconds, max(int((at - seconds) * 1e9), 1))
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(when), None)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _rung(self) -> None:
        if self._fd is not None:
            os.read(self._fd, 8)
            self._ring()


def poisson(rate: float, seed: int) -> Iterator[float]:
    """Seconds between the arrivals of a Poisson process of ``rate`` a second."""
    source = random.Random(seed)
    while True:
        yield source.expovariate(rate)


def _libc() -> ctypes.CDLL | None:
    if os.name != "posix":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "timerfd_create") else None
