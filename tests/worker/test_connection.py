"""The server's end of a worker's pipes, without a worker."""

from __future__ import annotations

import asyncio
import os
import time

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


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_line_without_an_end_is_delivered_after_a_moment(loop_factory):
    async def prompted() -> list[str]:
        read_end, write_end = os.pipe()
        lines: asyncio.Queue[str] = asyncio.Queue()
        reader = LineReader(read_end, asyncio.get_running_loop(), lines.put_nowait)
        try:
            os.write(write_end, b"whole\nName: ")
            found = [await asyncio.wait_for(lines.get(), 5), await asyncio.wait_for(lines.get(), 1)]
            os.write(write_end, b"Ada\n")
            return [*found, await asyncio.wait_for(lines.get(), 5)]
        finally:
            os.close(write_end)
            reader.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(prompted()) == ["whole", "Name: ", "Ada"]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_line_whose_end_lies_unread_behind_a_busy_loop_stays_whole(loop_factory):
    async def busy() -> list[str]:
        read_end, write_end = os.pipe()
        loop = asyncio.get_running_loop()
        lines: asyncio.Queue[str] = asyncio.Queue()
        reader = LineReader(read_end, loop, lines.put_nowait)
        try:
            os.write(write_end, b"first half")
            while not reader._partial:  # noqa: ASYNC110
                await asyncio.sleep(0)
            os.write(write_end, b", second half\n")
            time.sleep(0.4)  # noqa: ASYNC251  (the loop does nothing else meanwhile)
            return [await asyncio.wait_for(lines.get(), 5)]
        finally:
            os.close(write_end)
            reader.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(busy()) == ["first half, second half"]
