"""Mended on purpose: register calls, and what is refused of them."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from tests.core_rig import Site, never, until
from tests.frontend.http_fakes import edge
from ts_frontend.core.changes import NOT_REGISTERED
from ts_frontend.errors import BadRequest, InvalidModel, ModelSetupFailed, ServiceUnavailable


async def test_a_json_register_without_a_delay_keeps_the_default() -> None:
    """TorchServe's JSON form took it for -10000 ms, and batched two at most."""
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(e.url("/models", 1), json={"url": "a.mar"}) as answer,
    ):
        assert answer.status == 200
    assert e.management.calls[0][1].max_batch_delay is None


@pytest.mark.parametrize("name", ["response_timeout", "startup_timeout"])
@pytest.mark.parametrize("seconds", [0, -5])
async def test_a_timeout_below_one_second_is_a_400(site: Site, name: str, seconds: int) -> None:
    """TorchServe took it as it was: each load failed at once, or each prediction."""
    with pytest.raises(BadRequest, match=rf"{name} must be 1 second or more, not {seconds};"):
        await site.register(site.model(), **{name: seconds})
    assert site.unpacked == 0


async def test_a_batch_below_one_and_a_delay_below_zero_are_taken_as_they_run(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe described a batch size of 0 and a delay of -5 ms, and ran with 1 and none."""
    await site.register(site.model(), 0, batch_size=0, max_batch_delay=-5)
    (body,) = await site.management.describe("m", None)
    assert (body["batchSize"], body["maxBatchDelay"]) == (1, 0)
    assert "Parameter batch_size=0 is taken as 1." in caplog.text
    assert "Parameter max_batch_delay=-5 is taken as 0." in caplog.text


async def test_more_workers_than_a_thousand_are_a_400(site: Site) -> None:
    """TorchServe set out to start however many were asked for."""
    with pytest.raises(BadRequest, match=r"^1001 workers are too many: .* may have 1000 at once"):
        await site.register(site.model(), 1001)
    with pytest.raises(BadRequest, match=r"^2147483647 workers are too many"):
        await site.register(site.model("n", yaml="minWorkers: 2147483647"))
    assert site.unpacked == 0
    await site.register(site.model("o"))
    with pytest.raises(BadRequest, match=r"^1001 workers are too many"):
        await site.management.scale("o", None, 1001, 1001, False)
    assert len(site.catalog.find("o").slots) == 1


async def test_a_json_register_is_64_kib_at_most() -> None:
    """TorchServe read up to max_request_size of it."""
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(
            e.url("/models", 1),
            data=b"{'url': '" + bytes(64 << 10) + b"'}",
            headers={"Content-Type": "application/json"},
        ) as answer,
    ):
        assert answer.status == 413
        assert "limit for parameters is 65536" in (await answer.json())["message"]


async def test_a_version_without_a_url_of_its_own_is_refused(site: Site) -> None:
    """TorchServe registered it, and nothing could name it, nor `all` in describe."""
    for number, version in enumerate(("1/0", "1\n0", "..", "all", "ready")):
        url = site.model("m", f"{number}", modelVersion=version)
        with pytest.raises(InvalidModel, match=r"^Model version "):
            await site.register(url)
    with pytest.raises(InvalidModel, match=r"^Model name '\.\.' "):
        await site.register(site.model(), model_name="..")
    assert site.management.list_models(100, 0) == {"models": []}


async def test_an_empty_json_register_is_a_400() -> None:
    """TorchServe answered 500 NullPointerException."""
    kind = {"Content-Type": "application/json"}
    async with (
        edge(enable_model_api=True) as e,
        aiohttp.ClientSession() as session,
        session.post(e.url("/models", 1), data=b"", headers=kind) as answer,
    ):
        assert answer.status == 400
        assert (await answer.json())["message"] == "Parameter url is required."


async def test_a_model_whose_packages_fail_is_not_registered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe answered 400 and kept the model: the next try was told 409."""

    async def fail(*_: object) -> str | None:
        raise ModelSetupFailed("Custom pip package installation failed for model m")

    url = site.model()
    with monkeypatch.context() as patch:
        patch.setattr("ts_frontend.core.registration.prepare", fail)
        with pytest.raises(ModelSetupFailed):
            await site.register(url)
    assert (await site.register(url)).status == 200


async def test_a_registration_ends_with_the_server(site: Site) -> None:
    """TorchServe left its client without an answer, and the model in the catalog."""
    site.backend.load = never
    changes = site.management.changes
    client = asyncio.create_task(changes.run(site.register(site.model()), NOT_REGISTERED))
    await until(lambda: bool(list(site.catalog)))
    changes.stop()
    with pytest.raises(ServiceUnavailable, match=r"^The server is stopping: .* not registered"):
        await client
    assert list(site.catalog) == []


async def test_one_model_may_read_pickles(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """torch had a variable for it, which the server handed to all models."""
    free = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    await site.register(site.model("old"), weights_only=False)
    assert site.worker.spec.env[free] == "1"
    await site.register(site.model("new"))
    assert free not in site.worker.spec.env
    (told,) = [line for line in caplog.messages if "may load pickles" in line]
    assert told.startswith("Model old version 1.0")
