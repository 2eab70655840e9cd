"""Mended on purpose: where archives come from, and what is no archive."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tests.compat.reference.web import web_server
from tests.core_rig import Site
from tests.frontend.test_core_download import dripping
from tests.frontend.test_core_store import mar
from ts_frontend.errors import DownloadFailed, Internal, InvalidModel, ModelNotFound


async def test_an_s3_url_is_downloaded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe took "s3://bucket/m.mar" for a file of the store. tests/frontend/test_core_bucket
    has the rest."""

    class Found(io.BytesIO):
        def __init__(self, url: str, read_timeout: float) -> None:
            assert url == "s3://bucket/m.mar"
            super().__init__(mar(site.folder.parent, "m").read_bytes())

    monkeypatch.setattr("ts_frontend.core.download.open_object", Found)
    assert (await site.register("s3://bucket/m.mar")).status == 200
    assert (site.folder / "m.mar").is_file()


@pytest.mark.parametrize("dots", ["%2e%2e", "%2E.", ".%2e"])
async def test_an_escaped_parent_folder_is_refused(tmp_path: Path, dots: str) -> None:
    """TorchServe looked for ".." as such; this opened a file beside the folder that is allowed."""
    (tmp_path / "open").mkdir()
    (tmp_path / "secret.mar").write_bytes(b"")
    async with Site(tmp_path, allowed_urls=(f"file://{tmp_path}/open/.*",)) as site:
        url = f"file://{tmp_path}/open/{dots}/secret.mar"
        with pytest.raises(ModelNotFound) as caught:
            await site.register(url)
    assert caught.value.message == f"Relative path is not allowed in url: {url}"


async def test_redirects_must_be_allowed_too(tmp_path: Path) -> None:
    """TorchServe looked at the first URL only."""
    with web_server() as web:
        web.moved = {"/open/m.mar": web.url("/secret/m.mar")}
        async with Site(tmp_path, allowed_urls=(web.url("/open/.*"),)) as site:
            with pytest.raises(ModelNotFound) as caught:
                await site.register(web.url("/open/m.mar"))
        text = f"Given URL {web.url('/secret/m.mar')} does not match any allowed URL(s)"
    assert caught.value.message == text


async def test_a_download_gets_on_or_fails(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe set no time limits. tests/frontend/test_core_download.py has the rest."""
    os.mkfifo(tmp_path / "pipe.mar")
    with pytest.raises(DownloadFailed, match="it is not a regular file"):
        await site.register((tmp_path / "pipe.mar").as_uri())
    monkeypatch.setattr("ts_frontend.core.download.STALL_SECONDS", 0.1)
    async with dripping() as server:
        with pytest.raises(DownloadFailed, match=r"it is too slow: .* in 0\.1 seconds"):
            await site.register(f"http://127.0.0.1:{server.port}/m.mar")
    assert list(site.folder.iterdir()) == []


async def test_a_downloaded_archive_stays_while_others_need_it(site: Site, tmp_path: Path) -> None:
    """TorchServe deleted it with the model that had been registered by URL."""
    source = mar(tmp_path / "elsewhere")
    await site.register(source.as_uri())
    await site.register("m.mar", model_name="n")
    await site.management.unregister("m", None)
    assert (site.folder / "m.mar").is_file()
    await site.management.unregister("n", None)
    assert not (site.folder / "m.mar").exists()


async def test_a_refused_archive_tells_its_cause(site: Site) -> None:
    """TorchServe's texts ended behind what they were about."""
    url = site.model()
    (Path(url) / "MAR-INF" / "MANIFEST.json").write_text("{")
    with pytest.raises(InvalidModel, match=r"^Failed to parse signature\.json\. .*JSON"):
        await site.register(url)
    absent = f"file://{site.folder}/absent.mar"
    with pytest.raises(DownloadFailed) as caught:
        await site.register(absent)
    text, _, cause = caught.value.message.partition("\n")
    assert text == f"Failed to download archive from: {absent}"
    assert "No such file" in cause


async def test_a_file_that_is_no_archive_is_refused(site: Site) -> None:
    """TorchServe unpacked nothing from it and registered a model without files."""
    (site.folder / "page.mar").write_text("<!DOCTYPE html><html>Please log in</html>")
    with pytest.raises(Internal, match=r"^Failed to save model: page\.mar\n(.*)web page"):
        await site.register("page.mar")
