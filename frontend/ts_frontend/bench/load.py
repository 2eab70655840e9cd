"""One level of load from one process: sends requests, checks and counts the answers.

Closed loop: each connection sends again as soon as it has its answer. Open loop: requests are due
at random times, and one waits for a free connection if it must. Its latency begins when it was
due, so that a server that stalls can't hide it by holding up the client (coordinated omission).
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from typing import Protocol

from ts_frontend.bench.alarm import Alarm, poisson
from ts_frontend.bench.answer import Answer
from ts_frontend.bench.connection import Connection, tls
from ts_frontend.bench.effort import Effort
from ts_frontend.bench.errors import LostConnection
from ts_frontend.bench.plan import Level, Target
from ts_frontend.bench.tally import Tally

# Before a connection sends again after an error that came at once: a client that is refused
# 20,000 times a second measures itself.
_PAUSE = 0.05
_LOOK = 0.5  # between looks at what is late


async def drive(target: Target, level: Level, begin: float, stop: asyncio.Event) -> Tally:
    """Put one level of load on the server.

    Args:
        begin: when the warm-up begins, by time.monotonic.
        stop: set to end before the time is up.
    """
    load = _Load(target, level, tls(target), begin)
    return await load.run(stop)


class _Pace(Protocol):
    """When requests are sent."""

    async def start(self) -> None: ...

    def freed(self, connection: Connection, failed: bool) -> None:
        """A connection has nothing to do."""

    def overdue(self, now: float) -> list[float]:
        """When the requests that wait for a connection were due."""

    def stop(self) -> None: ...


class _Load:
    def __init__(
        self, target: Target, level: Level, context: ssl.SSLContext | None, begin: float
    ) -> None:
        self._target = target
        self._level = level
        self._context = context
        self._requests = target.requests()
        self._next = 0
        self._warm = begin + level.warmup
        self._end = float("inf") if level.requests is not None else self._warm + level.seconds
        self._issued = 0  # after the warm-up
        self._begin = begin
        self._tally = Tally()
        self._connections: list[Connection] = []
        self._pace: _Pace = _Closed(self) if level.rate is None else _Open(self, level.rate)
        self._busy = 0  # requests without an answer yet
        self._over = asyncio.Event()
        self._drained = asyncio.Event()

    @property
    def level(self) -> Level:
        return self._level

    async def run(self, stop: asyncio.Event) -> Tally:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(self._begin - time.monotonic(), 0))
        works = (stop.wait(), self._measure(), self._watch(), self._pace.start())
        tasks: list[asyncio.Task[object]] = [loop.create_task(work) for work in works]
        stopped, measured, *_ = tasks
        try:
            await asyncio.wait([stopped, measured], return_when=asyncio.FIRST_COMPLETED)
            if self._busy and not stopped.done():
                # The next level is to find the server idle.
                drained = loop.create_task(self._drained.wait())
                tasks.append(drained)
                await asyncio.wait([stopped, drained], return_when=asyncio.FIRST_COMPLETED)
            self._tally.interrupted = stopped.done()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            self._pace.stop()
            await asyncio.gather(*(connection.close() for connection in self._connections))
        return self._tally

    def connection(self) -> Connection:
        """A new connection, which opens when it is used."""
        connection = Connection(self._target, self._context, self._done)
        self._connections.append(connection)
        return connection

    def issue(self, connection: Connection, due: float) -> bool:
        """Send the next input; False when all has been sent that was to be."""
        if self._over.is_set():
            return False
        if due >= self._warm:
            if self._issued == self._level.requests:
                return False
            self._issued += 1
        index = self._next % len(self._requests)
        self._next += 1
        self._busy += 1
        connection.send(self._requests[index], index, due)
        return True

    def _done(self, connection: Connection, outcome: Answer | LostConnection) -> None:
        now = time.monotonic()
        self._busy -= 1
        if self._counts(connection.due, now):
            self._count(connection, outcome, now)
        if not self._over.is_set():
            self._pace.freed(connection, isinstance(outcome, LostConnection))
        elif not self._busy:
            self._drained.set()

    def _counts(self, due: float, now: float) -> bool:
        """Answers count by when they come, and a number of requests by when they were due."""
        if self._level.requests is not None:
            return due >= self._warm
        return self._warm <= now < self._end

    def _count(self, connection: Connection, outcome: Answer | LostConnection, now: float) -> None:
        tally, one = self._tally, self._target.inputs[connection.index]
        size = len(one.body)
        if isinstance(outcome, LostConnection):
            tally.bad(str(outcome), size)
        elif outcome.status != 200:
            tally.bad(f"status {outcome.status}", size, outcome.text())
        elif one.expect is not None and outcome.body != one.expect:
            tally.bad("another body than expected", size, outcome.text())
        else:
            tally.good(int((now - connection.due) * 1e9), size, len(outcome.body))
        if tally.count == self._level.requests:
            self._end = now
            self._over.set()

    async def _measure(self) -> None:
        """Wait for the end of the level, and take its time and what waits then."""
        spent = None
        try:
            await asyncio.sleep(max(self._warm - time.monotonic(), 0))
            spent = Effort.now()
            if self._level.requests is not None:
                await self._over.wait()
            else:
                await asyncio.sleep(max(self._end - time.monotonic(), 0))
        finally:
            self._over.set()
            self._pace.stop()
            self._take(min(time.monotonic(), self._end), spent)

    def _take(self, now: float, spent: Effort | None) -> None:
        tally = self._tally
        tally.seconds = max(now - self._warm, 0.0)
        if spent is not None and tally.seconds:
            effort = Effort.now().since(spent, tally.seconds)
            tally.busy, tally.starved = [effort.busy], [effort.starved]
        due = [one.due for one in self._connections if one.sent] + self._pace.overdue(now)
        tally.waiting = len(due)
        tally.oldest = max(now - min(due), 0.0) if due else 0.0

    async def _watch(self) -> None:
        """Give up requests that have no answer in time."""
        while True:
            await asyncio.sleep(min(_LOOK, self._target.timeout))
            limit = time.monotonic() - self._target.timeout
            for connection in self._connections:
                if connection.sent and connection.sent < limit:
                    connection.fail(f"no answer in {self._target.timeout:g} s")


class _Closed:
    """As many connections as the level has, each of them always waiting for an answer."""

    def __init__(self, load: _Load) -> None:
        self._load = load

    async def start(self) -> None:
        opened = [self._load.connection() for _ in range(self._load.level.connections)]
        # What can't connect now fails when it sends, and is counted there.
        await asyncio.gather(*(one.open() for one in opened), return_exceptions=True)
        for connection in opened:
            self.freed(connection, failed=False)

    def freed(self, connection: Connection, failed: bool) -> None:
        if failed:
            asyncio.get_running_loop().call_later(_PAUSE, self.freed, connection, False)
        else:
            self._load.issue(connection, time.monotonic())

    def overdue(self, now: float) -> list[float]:
        return []

    def stop(self) -> None:
        pass


class _Open:
    """Requests at random times, on as many connections as that takes, up to the level's."""

    def __init__(self, load: _Load, rate: float) -> None:
        self._load = load
        self._gaps = poisson(rate, load.level.seed)
        self._due = 0.0
        self._backlog: deque[float] = deque()  # due, and without a connection
        self._free: list[Connection] = []
        self._opened = 0
        self._alarm: Alarm | None = None

    async def start(self) -> None:
        self._alarm = Alarm(self._ring)
        self._due = time.monotonic() + next(self._gaps)
        self._alarm.set(self._due)

    def freed(self, connection: Connection, failed: bool) -> None:
        self._free.append(connection)
        self._send()

    def overdue(self, now: float) -> list[float]:
        return [due for due in self._backlog if due <= now]

    def stop(self) -> None:
        if self._alarm is not None:
            self._alarm.close()
            self._alarm = None

    def _ring(self) -> None:
        now = time.monotonic()
        while self._due <= now:
            self._backlog.append(self._due)
            self._due += next(self._gaps)
        self._send()
        if self._alarm is not None:
            self._alarm.set(self._due)

    def _send(self) -> None:
        while self._backlog and (self._free or self._opened < self._load.level.connections):
            if not self._free:
                self._free.append(self._load.connection())
                self._opened += 1
            if not self._load.issue(self._free[-1], self._backlog[0]):  # that was all
                self.stop()
                self._backlog.clear()
                return
            self._free.pop()
            self._backlog.popleft()
