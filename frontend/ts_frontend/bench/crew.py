"""The processes of the client: this one, or several of its kind where one is not quick enough.

Each of several is this module run as a program. It reads JSON lines from its standard input, the
target and then a level each time, and writes a tally for each; a line in between, or the end of the
input, ends a level early. So none outlives this process, and Ctrl-C reaches this one alone.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Self

from ts_frontend.bench.errors import BenchError
from ts_frontend.bench.load import drive
from ts_frontend.bench.loop import run
from ts_frontend.bench.plan import Level, Target, dumps, loads
from ts_frontend.bench.tally import Tally

_LONGEST_LINE = 1 << 30  # inputs are in it
_AHEAD = 0.05  # seconds until a level begins, in all processes at the same time
_DIED = "a process of the client died: see above, or use fewer --processes"


class Crew:
    """Measures levels one after the other. Used with ``async with``."""

    def __init__(self, target: Target, processes: int) -> None:
        self._target = target
        self._size = processes
        self._processes: list[Process] = []

    async def __aenter__(self) -> Self:
        try:
            if self._size > 1:
                for _ in range(self._size):
                    self._processes.append(await _start())
                line = dumps(self._target).encode() + b"\n"
                await asyncio.gather(*(_ask(process, line) for process in self._processes))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self._processes:
            try:
                await asyncio.wait_for(process.wait(), 5)
            except TimeoutError:
                process.kill()
                await process.wait()

    async def measure(self, level: Level, stop: asyncio.Event) -> Tally:
        """Run one level; ``stop`` ends it early.

        Raises:
            BenchError: a process of the client died.
        """
        if not self._processes:
            return await drive(self._target, level, time.monotonic(), stop)
        begin = time.monotonic() + _AHEAD
        busy = [
            (process, json.dumps({"begin": begin, "level": asdict(share)}).encode() + b"\n")
            for process, share in zip(self._processes, level.shares(self._size), strict=False)
        ]
        async with _passed_on(stop, [process for process, _ in busy]):
            lines = await asyncio.gather(*(_ask(process, line) for process, line in busy))
        total = Tally()
        for line in lines:
            total.merge(Tally.from_json(json.loads(line)))
        return total


async def _start() -> Process:
    try:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ts_frontend.bench.crew"),
            stdin=PIPE,
            stdout=PIPE,
            limit=_LONGEST_LINE,
            start_new_session=True,
        )
    except OSError as error:
        raise BenchError(f"{sys.executable} can't be started: {error.strerror}") from None


async def _ask(process: Process, line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        await process.stdin.drain()
    except ConnectionError:
        raise BenchError(_DIED) from None
    answer = await process.stdout.readline()
    if not answer.endswith(b"\n"):
        raise BenchError(_DIED)
    return answer


@asynccontextmanager
async def _passed_on(stop: asyncio.Event, processes: list[Process]) -> AsyncIterator[None]:
    """Tell the processes when ``stop`` is set."""

    async def tell() -> None:
        await stop.wait()
        for process in processes:
            if process.stdin is not None:
                process.stdin.write(b"stop\n")

    telling = asyncio.create_task(tell())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait([telling])


async def _serve() -> None:
    """Be one of several."""
    reader = asyncio.StreamReader(limit=_LONGEST_LINE)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer
    )
    target = loads((await reader.readline()).decode())
    print("ready", flush=True)
    while line := await reader.readline():
        if line == b"stop\n":  # it came when the level was over
            continue
        wish = json.loads(line)
        stop = asyncio.Event()
        ending = asyncio.create_task(_wait_for_line(reader, stop))
        tally = await drive(target, Level(**wish["level"]), wish["begin"], stop)
        ending.cancel()
        await asyncio.wait([ending])
        print(json.dumps(tally.as_json()), flush=True)


async def _wait_for_line(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    await reader.readline()
    stop.set()


if __name__ == "__main__":
    run(_serve())
