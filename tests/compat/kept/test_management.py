"""Kept on purpose: lists, versions, and calls that register and scale."""

from __future__ import annotations

import pytest

from tests.compat.scenes import get, refuse
from tests.core_rig import Site
from tests.frontend.http_fakes import edge
from ts_frontend.errors import Internal, InvalidVersion, ModelNotFound, VersionNotFound


async def test_a_token_is_given_where_the_page_ends_with_the_last_model(site: Site) -> None:
    """TorchServe gave a nextPageToken that leads to an empty page."""
    for name in ("a", "b"):
        await site.register(site.model(name), 0)
    page = site.management.list_models
    assert page(2, 0)["nextPageToken"] == "2"
    assert page(2, 2) == {"models": []}
    assert "nextPageToken" not in page(3, 0)


async def test_a_list_has_a_hundred_models_at_most(site: Site) -> None:
    """TorchServe's documents say 1000; it gave 100, for a limit it did not like as well. A limit
    of 0 gives nothing, and the token of the same page."""
    for number in range(101):
        site.add(f"m{number:03}")
    for limit in (1000, 101, -1):
        page = site.management.list_models(limit, 0)
        assert (len(page["models"]), page["nextPageToken"]) == (100, "100")
    assert site.management.list_models(0, 7) == {"nextPageToken": "7", "models": []}


async def test_the_default_version_changes_by_set_default_only(site: Site) -> None:
    """In TorchServe the first version stays the default. Set-default words an unknown version
    unlike all other calls."""
    for version in ("1", "2"):
        await site.register(site.model(version=version), 0)
    assert site.catalog.find("m").version == "1"
    with pytest.raises(VersionNotFound, match=r"^Model version 9 does not exist for model m$"):
        site.management.set_default("m", "9")
    with pytest.raises(VersionNotFound, match=r"^Model version: 9 does not exist for model: m$"):
        await site.management.describe("m", "9")
    site.management.set_default("m", "2")
    assert site.catalog.find("m").version == "2"


async def test_a_default_version_with_others_cannot_be_deleted(site: Site) -> None:
    """TorchServe refused it with 403; the name goes with the last version."""
    for version in ("1", "2"):
        await site.register(site.model(version=version), 0)
    for refused in (None, "1"):
        with pytest.raises(InvalidVersion, match=r"^Cannot remove default version for model m$"):
            await site.management.unregister("m", refused)
    assert (InvalidVersion.status, InvalidVersion.type) == (403, "InvalidModelVersionException")
    await site.management.unregister("m", "2")
    await site.management.unregister("m", None)
    with pytest.raises(ModelNotFound):
        site.catalog.find("m")


async def test_without_the_model_api_it_is_a_405() -> None:
    """TorchServe answered 405, not 403, where registering is switched off."""
    async with edge(enable_model_api=False) as e:
        for method, path in (("POST", "/models?url=a.mar"), ("DELETE", "/models/m")):
            status, text = await get(e.url(path, 1), method)
            assert status == 405
            assert "Requested method is not allowed" in text
    assert e.management.calls == []


async def test_register_waits_and_scale_does_not() -> None:
    """TorchServe's documents say that synchronous is false for both; for register it was true."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models?url=a.mar", 1), "POST")
        await get(e.url("/models/m", 1), "PUT")
    (_, asked), scaled = e.management.calls
    assert asked.synchronous is True
    assert scaled == ("scale", "m", None, 1, 1, False)


async def test_a_json_register_hides_the_query() -> None:
    """With a JSON body TorchServe did not look at the query; single quotes were good enough."""
    async with edge(enable_model_api=True) as e:
        body = {"data": "{'url': 'b.mar'}", "headers": {"Content-Type": "application/json"}}
        await get(e.url("/models?url=a.mar&batch_size=3", 1), "POST", **body)
    ((_, asked),) = e.management.calls
    assert (asked.url, asked.batch_size) == ("b.mar", None)


async def test_a_number_that_is_none_counts_as_not_given() -> None:
    """TorchServe took batch_size=many in a query for no batch_size."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models?url=a.mar&batch_size=many", 1), "POST")
    assert e.management.calls[0][1].batch_size is None


async def test_set_default_by_another_method_means_the_model() -> None:
    """TorchServe took GET or DELETE of .../set-default for the model without a version."""
    async with edge(enable_model_api=True) as e:
        await get(e.url("/models/m/2.0/set-default", 1))
        await get(e.url("/models/m/2.0/set-default", 1), "DELETE")
    assert e.management.calls == [("describe", "m", None, False), ("unregister", "m", None)]


async def test_a_url_again_is_a_500_and_an_archive_again_a_409(site: Site) -> None:
    """TorchServe found the file of a URL in its store and said 500; only (name, version) is 409."""
    (site.folder / "a.mar").write_bytes(b"")
    with pytest.raises(Internal, match=r"^Model file already exists a\.mar$") as caught:
        await site.register("http://nowhere.invalid/a.mar")
    assert caught.value.status == 500
    url = site.model()
    await site.register(url, 0)
    with pytest.raises(Exception, match=r"^Model version 1\.0 is already registered for model m$"):
        await site.register(url, 0)


async def test_a_failed_scale_names_the_version_null(site: Site) -> None:
    """TorchServe printed Java's null where the client had named no version."""
    await site.register(site.model(), 0)
    site.backend.load = refuse
    with pytest.raises(Internal, match=r"^Failed to start workers for model m version: null\n"):
        await site.management.scale("m", None, 1, 1, True)
