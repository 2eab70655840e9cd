"""Changes of models under way when their client goes away, and when the server stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.core_rig import Site, never, until
from tests.fakes import hold, make_request
from tests.frontend.test_core_download import dripping
from ts_frontend.core.changes import NOT_AWAITED, NOT_REGISTERED, STOPPING, Changes
from ts_frontend.core.management import Outcome
from ts_frontend.errors import ServiceUnavailable


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        yield site


async def test_a_change_outlives_its_client_and_its_end_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    changes, go = Changes(), asyncio.Event()

    async def change() -> Outcome:
        await go.wait()
        return Outcome(200, "done")

    client = asyncio.create_task(changes.run(change(), NOT_REGISTERED))
    await until(lambda: bool(changes._tasks))
    client.cancel()
    await asyncio.wait([client])
    assert client.cancelled()
    go.set()
    await until(lambda: "ended after its client had gone: done" in caplog.text)
    assert not changes._tasks


async def test_no_change_begins_while_the_server_stops() -> None:
    changes = Changes()
    changes.stop()
    with pytest.raises(ServiceUnavailable, match=f"^{STOPPING}$"):
        await changes.run(asyncio.sleep(0))
    await changes.close()


async def test_a_model_that_loads_when_the_server_stops_is_withdrawn(site: Site) -> None:
    site.backend.load = never
    changes = site.management.changes
    client = asyncio.create_task(changes.run(site.register(site.model()), NOT_REGISTERED))
    await until(lambda: bool(list(site.catalog)))
    changes.stop()
    with pytest.raises(ServiceUnavailable, match=f"^{NOT_REGISTERED}$"):
        await client
    assert list(site.catalog) == []
    assert site.unpacked == 0


async def test_a_download_ends_when_the_server_stops(site: Site) -> None:
    changes = site.management.changes
    async with dripping() as server:
        url = f"http://127.0.0.1:{server.port}/drip.mar"
        client = asyncio.create_task(changes.run(site.register(url), NOT_REGISTERED))
        await server.met.wait()
        changes.stop()
        with pytest.raises(ServiceUnavailable, match=f"^{NOT_REGISTERED}$"):
            await asyncio.wait_for(client, 10)
    assert list(site.folder.iterdir()) == []


async def test_who_waits_for_workers_does_not_hold_up_the_stop(site: Site) -> None:
    await site.register(site.model())
    site.backend.load = never
    changes = site.management.changes
    scaling = site.management.scale("m", None, 2, 2, True)
    client = asyncio.create_task(changes.run(scaling, NOT_AWAITED))
    await until(lambda: len(site.catalog.find("m").slots) == 2)
    changes.stop()
    with pytest.raises(ServiceUnavailable, match=f"^{NOT_AWAITED}$"):
        await client
    # What the call had changed stays, for the next start.
    assert [one.min_workers for one in site.catalog] == [2]


async def test_an_unregister_goes_on_while_requests_are_answered(site: Site) -> None:
    site.backend.behaviour = hold
    await site.register(site.model())
    request = asyncio.create_task(site.inference.predict("m", None, make_request()))
    await site.worker.received()
    changes = site.management.changes
    client = asyncio.create_task(changes.run(site.management.unregister("m", None)))
    await until(lambda: list(site.catalog) == [])
    changes.stop()
    site.worker.finish()
    assert (await client).status == 200
    await request


async def test_what_is_left_in_the_end_is_cleaned_up(site: Site) -> None:
    site.backend.behaviour = hold
    await site.register(site.model())
    request = asyncio.create_task(site.inference.predict("m", None, make_request()))
    await site.worker.received()
    changes = site.management.changes
    client = asyncio.create_task(changes.run(site.management.unregister("m", None)))
    await until(lambda: list(site.catalog) == [])
    await changes.close()
    with pytest.raises(ServiceUnavailable, match=f"^{STOPPING}$"):
        await client
    assert site.unpacked == 0
    request.cancel()
    await asyncio.wait([request])
