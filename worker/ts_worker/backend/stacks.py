"""Where the threads of a worker stand: asked for by a signal, told on its stderr.

`process` asks a worker that does not finish loading, before it ends it. The other end is
`runtime.birth`: a handler of faulthandler's, which runs inside C code, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable

_FIRST = 1.0  # seconds for the first line: a process that is stopped says nothing
_NEXT = 0.1  # for each further one; there is no mark at the end
_ALL = 2.0  # for all together: what loads may write a line whenever one is waited for
_FRAME = "  "  # so begin the lines of a stack, and few others
_ORDER = " (most recent call first):"


class StackReader:
    """Gathers the lines that a worker writes after the signal."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._more = asyncio.Event()

    def add(self, line: str) -> None:
        """Take a line of stderr; what is none of a stack is somebody else's."""
        if line.startswith(_FRAME) or line.endswith(_ORDER):
            self._lines.append(line)
            self._more.set()

    async def read(self) -> str:
        """The stacks as a traceback, once no more lines come; empty where none came."""
        patience = _FIRST
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ALL):
                while True:
                    async with asyncio.timeout(patience):
                        await self._more.wait()
                    self._more.clear()
                    patience = _NEXT
        return most_recent_last(self._lines)


def most_recent_last(lines: Iterable[str]) -> str:
    """Turn faulthandler's stacks around, so that they read as tracebacks do: who shows only the
    end shows where the main thread stands, which faulthandler writes last."""
    stacks: list[list[str]] = []
    for line in lines:
        if line.endswith(_ORDER):
            stacks.append([line.replace(" first):", " last):")])
        elif stacks:
            stacks[-1].insert(1, line)
    return "\n".join(line for stack in stacks for line in stack)
