"""Models come and go; the server is what it was before. `LEAK_ROUNDS=100 make test-slow` plays a
thousand rounds, which takes some minutes."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.e2e.conftest import MARS, Server, archive, until

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

WARM_UP = 50
LAPS, ROUNDS = 10, int(os.environ.get("LEAK_ROUNDS", "30"))
# How much more a process may hold behind all of them: of a thousand rounds 1 kB for each, which is
# less than one forgotten slot, task or series of metrics with all that hangs on it.
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Holdings:
    """What a server has in its hands."""

    descriptors: dict[str, int]
    processes: list[str]
    files: list[str]
    memory: dict[str, int]


def holdings(server: Server) -> Holdings:
    """What the server and its zygotes hold now."""
    assert server.process is not None
    family = sorted(server.family(), key=lambda one: one.pid)
    named = {"server": server.process.pid}
    named |= {f"zygote {n}": one.pid for n, one in enumerate(family) if "zygote" in one.name()}
    files = [path for place in ("tmp", "store") for path in (server.folder / place).rglob("*")]
    return Holdings(
        {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in named.items()},
        sorted(one.name() for one in family),
        sorted(map(str, files)),
        {name: private(pid) for name, pid in named.items()},
    )


def private(pid: int) -> int:
    """Bytes that no other process shares: a fork shares its pages until one of the two writes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
    return 1024 * (int(sizes["Private_Dirty"]) + int(sizes["Private_Clean"]))


def play(server: Server, rounds: int) -> None:
    """Register, use and unregister a model."""
    for _ in range(rounds):
        assert server.register("echo.mar", initial_workers=1).status == 200
        assert server.predict("echo").body == b"x"
        assert server.manage("DELETE", "/models/echo").status == 200


@pytest.mark.timeout(900)
def test_models_that_come_and_go_leave_nothing(make_server):
    server = make_server(enable_model_api="true")
    archive(server.store, "echo", MARS / "echo.py")
    server.start()
    play(server, WARM_UP)
    before = holdings(server)
    assert before.processes == ["ts:zygote"] * 2
    laps = []
    for _ in range(LAPS):
        play(server, ROUNDS)
        until(lambda: replace(holdings(server), memory=before.memory) == before)
        laps.append(holdings(server).memory)
    # Garbage waits for the collector: the server's memory rises by 1 MB and falls again.
    for name, size in before.memory.items():
        assert min(lap[name] for lap in laps[LAPS // 2 :]) - size < MOST_BYTES, laps
