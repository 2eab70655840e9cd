"""Who may load at the same time: cores, memory, order, and those who go away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tests.core_rig import until
from tests.fakes import run_virtual
from ts_frontend.core.load_gate import PATIENCE, LoadGate


class Loads:
    """Loads that end when told."""

    def __init__(self, most: int = 2, available: Callable[[], int | None] = lambda: None) -> None:
        self.gate = LoadGate(most, available)
        self.begun: list[str] = []
        self._ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def begin(self, *names: str, size: int = 0) -> None:
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._load(name, size))

    async def _load(self, name: str, size: int) -> None:
        async with self.gate.turn(size):
            self.begun.append(name)
            await self._ends[name].wait()

    async def end(self, *names: str) -> None:
        for name in names:
            self._ends[name].set()
        await asyncio.wait([self.tasks[name] for name in names])
        await self.turn()

    async def turn(self) -> None:
        """Let everybody go as far as they can."""
        for _ in range(10):
            await asyncio.sleep(0)


async def test_no_more_than_allowed_load_and_they_do_in_their_order() -> None:
    loads = Loads(most=2)
    loads.begin(*"abcde")
    await loads.turn()
    assert loads.begun == ["a", "b"]
    await loads.end("b")
    assert loads.begun == ["a", "b", "c"]
    await loads.end("a", "c")
    assert loads.begun == list("abcde")
    await loads.end("d", "e")


async def test_a_large_model_waits_for_memory_and_nobody_overtakes_it() -> None:
    loads = Loads(most=9, available=lambda: 100)
    loads.begin("a", size=60)
    loads.begin("large", size=50)
    loads.begin("small", size=1)
    await loads.turn()
    assert loads.begun == ["a"]
    await loads.end("a")
    assert loads.begun == ["a", "large", "small"]
    await loads.end("large", "small")


async def test_alone_a_model_loads_whatever_it_needs() -> None:
    loads = Loads(available=lambda: 0)
    loads.begin("a", "b", size=1000)
    await loads.turn()
    assert loads.begun == ["a"]
    await loads.end("a")
    assert loads.begun == ["a", "b"]
    await loads.end("b")


@pytest.mark.parametrize("gone", ["a", "b"])
async def test_who_goes_away_holds_nobody_up(gone: str) -> None:
    loads = Loads(most=1)
    loads.begin(*"abc")
    await loads.turn()
    loads.tasks[gone].cancel()
    await asyncio.wait([loads.tasks[gone]])
    await loads.end("b" if gone == "a" else "a")
    assert loads.begun[-1] == "c"
    await loads.end("c")


async def test_who_goes_away_in_the_moment_of_its_turn_holds_nobody_up() -> None:
    loads = Loads(most=1)
    loads.begin(*"abc")
    await loads.turn()
    loads._ends["a"].set()
    await until(loads.tasks["a"].done)
    loads.tasks["b"].cancel()
    await asyncio.wait([loads.tasks["b"]])
    await loads.turn()
    assert loads.begun[-1] == "c"
    await loads.end("c")


def test_one_that_takes_long_does_not_count_for_ever() -> None:
    async def main() -> None:
        loads = Loads(most=1)
        loads.begin("a", "b")
        await asyncio.sleep(PATIENCE - 1)
        assert loads.begun == ["a"]
        await asyncio.sleep(2)
        assert loads.begun == ["a", "b"]
        await loads.end("a", "b")
        loads.begin("c", "d")  # each left once only
        await loads.turn()
        assert loads.begun == ["a", "b", "c"]
        await loads.end("c")
        await loads.end("d")

    run_virtual(main)
