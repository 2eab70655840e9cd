"""Models of the start: fetched side by side, registered in their order."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.core_rig import Site, until
from ts_frontend.core import startup
from ts_frontend.core.archive import Archive
from ts_frontend.core.store import Store
from ts_frontend.errors import Internal


class Fetches:
    """Archives that come when they are let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[str] = []
        self.go: dict[str, asyncio.Event] = {}
        self.broken: set[str] = set()
        real = Store.fetch

        async def fetch(store: Store, url: str, *, s3_sse_kms: bool = False) -> Archive:
            name = Path(url).name
            self.begun.append(name)
            await self.go.setdefault(name, asyncio.Event()).wait()
            if name in self.broken:
                raise Internal(f"{name} is broken")
            return await real(store, url, s3_sse_kms=s3_sse_kms)

        monkeypatch.setattr(Store, "fetch", fetch)

    def release(self, *names: str) -> None:
        for name in names:
            self.go.setdefault(name, asyncio.Event()).set()


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Fetches:
    return Fetches(monkeypatch)


async def test_a_slow_archive_keeps_its_place(tmp_path: Path, fetches: Fetches) -> None:
    async with Site(tmp_path, default_workers_per_model=1) as site:
        for name in "abc":
            site.model(name)
        loading = asyncio.create_task(site.management.startup.load("a-1.0, b-1.0, c-1.0"))
        fetches.release("b-1.0", "c-1.0")
        await until(lambda: fetches.begun == ["a-1.0", "b-1.0", "c-1.0"])
        assert list(site.catalog) == []
        fetches.release("a-1.0")
        await loading
        assert [model.name for model in site.catalog] == ["a", "b", "c"]
        assert [slot.id for model in site.catalog for slot in model.slots] == [
            "9000",
            "9001",
            "9002",
        ]
        await site.management.close()


async def test_versions_that_come_late_are_no_default_for_that(
    tmp_path: Path, fetches: Fetches
) -> None:
    async with Site(tmp_path) as site:
        site.model("one", "1.0")
        site.model("two", "2.0")
        loading = asyncio.create_task(site.management.startup.load("m=one-1.0, m=two-2.0"))
        fetches.release("two-2.0")
        await until(lambda: len(fetches.begun) == 2)
        fetches.release("one-1.0")
        await loading
        assert site.catalog.find("m", None).version == "1.0"
        await site.management.close()


async def test_failures_keep_their_place_and_hold_up_nobody(
    tmp_path: Path, fetches: Fetches
) -> None:
    fetches.broken = {"a-1.0", "c-1.0"}
    async with Site(tmp_path) as site:
        for name in "abc":
            site.model(name)
        loading = asyncio.create_task(site.management.startup.load("a-1.0, b-1.0, c-1.0"))
        fetches.release("c-1.0")
        await until(lambda: len(fetches.begun) == 3)
        fetches.release("b-1.0")
        fetches.release("a-1.0")
        await loading
        assert site.management.startup.failed_entries() == ["a-1.0", "c-1.0"]
        assert [model.name for model in site.catalog] == ["b"]
        await site.management.close()


async def test_only_some_are_fetched_ahead(
    tmp_path: Path, fetches: Fetches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(startup, "_AHEAD", 2)
    async with Site(tmp_path) as site:
        names = [f"m{number}" for number in range(4)]
        for name in names:
            site.model(name)
        loading = asyncio.create_task(
            site.management.startup.load(",".join(f"{name}-1.0" for name in names))
        )
        await until(lambda: len(fetches.begun) == 2)
        fetches.release("m1-1.0")
        for _ in range(20):
            await asyncio.sleep(0)
        assert fetches.begun == ["m0-1.0", "m1-1.0"]  # m1 waits for its turn
        fetches.release(*(f"{name}-1.0" for name in names))
        await loading
        assert [model.name for model in site.catalog] == names
        await site.management.close()


async def test_what_is_listed_twice_is_fetched_one_after_the_other(
    tmp_path: Path, fetches: Fetches
) -> None:
    async with Site(tmp_path) as site:
        site.model("a")
        loading = asyncio.create_task(site.management.startup.load("x=a-1.0, y=a-1.0"))
        await until(lambda: len(fetches.begun) == 1)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(fetches.begun) == 1
        fetches.release("a-1.0")
        await loading
        assert [model.name for model in site.catalog] == ["x", "y"]
        await site.management.close()


async def test_a_start_that_is_cut_off_leaves_nothing(tmp_path: Path, fetches: Fetches) -> None:
    async with Site(tmp_path) as site:
        for name in "ab":
            site.model(name)
        loading = asyncio.create_task(site.management.startup.load("a-1.0, b-1.0"))
        fetches.release("b-1.0")
        await until(lambda: site.unpacked == 1)
        loading.cancel()
        await asyncio.wait([loading])
        assert list(site.catalog) == []
        assert site.unpacked == 0
