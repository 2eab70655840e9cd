"""The server's end of a worker's pipes, without a worker."""

from __future__ import annotations

import asyncio
import os

import pytest
import uvloop

from ts_worker.backend.connection import LineReader


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("held", [False, True], ids=["writer gone", "writer held by a grandchild"])
def test_closing_delivers_what_is_there_and_closes_once(loop_factory, held):
    """A worker may end before the loop has read its last lines, or the end of them."""

    async def close_unread() -> list[str]:
        read_end, write_end = os.pipe()
        lines: list[str] = []
        reader = LineReader(read_end, asyncio.get_running_loop(), lines.append)
        os.write(write_end, b"one\nlast words")
        if not held:
            os.close(write_end)
        reader.close()
        reader.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read_end)
        if held:
            os.close(write_end)
        return lines

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(close_unread()) == ["one", "last words"]
