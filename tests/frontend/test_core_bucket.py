"""Archives at s3:// URLs, from a server on loopback that speaks as much S3 as boto3 needs."""

from __future__ import annotations

import http.server
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core_rig import Site
from tests.frontend.test_core_store import a_store, folder, give_up, mar, names
from ts_frontend.errors import DownloadFailed, Internal, ModelNotFound

__all__ = ["folder"]  # a fixture

URL = "s3://models/team/good.mar"
ERROR = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{text}</Message></Error>'


class Bucket(http.server.BaseHTTPRequestHandler):
    """The bucket "models"; knows one pair of keys."""

    objects: dict[str, bytes]

    def do_GET(self) -> None:
        bucket, _, key = self.path.partition("?")[0].lstrip("/").partition("/")
        if "Credential=known/" not in self.headers.get("authorization", ""):
            self._refuse(403, "AccessDenied", "Access Denied")
        elif bucket != "models":
            self._refuse(404, "NoSuchBucket", "The specified bucket does not exist")
        elif key not in self.objects:
            self._refuse(404, "NoSuchKey", "The specified key does not exist.")
        else:
            body = self.objects[key]
            self._answer(200, len(body) * 2 if key == "short.mar" else len(body), body)

    def _refuse(self, status: int, code: str, text: str) -> None:
        body = ERROR.format(code=code, text=text).encode()
        self._answer(status, len(body), body)

    def _answer(self, status: int, length: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(length))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(autouse=True)
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The server, and an environment in which boto3 finds it and nothing else."""
    Bucket.objects = {
        "team/good.mar": mar(tmp_path / "served").read_bytes(),
        "short.mar": b"short",
        "junk.mar": b"junk",
    }
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "known")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


async def test_an_object_is_downloaded_whole_and_deleted_with_the_model(folder: Path) -> None:
    store = a_store(folder)
    archive = await store.fetch(URL)
    assert archive.manifest["model"]["modelName"] == "m"
    assert names(folder) == ["good.mar"]
    with pytest.raises(Internal, match=r"^Model file already exists good\.mar$"):
        await store.fetch(URL)
    await store.discard(archive)
    assert names(folder) == []


@pytest.mark.parametrize(
    ("url", "key_id", "cause"),
    [
        ("s3://models/none.mar", "known", "there is no such key in the bucket: "),
        ("s3://others/good.mar", "known", "there is no such bucket: "),
        ("s3://models/short.mar", "known", "5 read, but total bytes expected is 10"),
        ("s3:///good.mar", "known", "Invalid bucket name"),
        (URL, "stranger", "access is denied to these credentials: "),
        (URL, "", "Unable to locate credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ],
)
async def test_what_fails_says_why_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, url: str, key_id: str, cause: str
) -> None:
    if key_id:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(DownloadFailed) as caught:
        await a_store(folder).fetch(url)
    assert caught.value.message.startswith(f"Failed to download archive from: {url}\n")
    assert cause in caught.value.message
    assert names(folder) == []


async def test_without_boto3_the_error_names_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "boto3.session", None)
    with pytest.raises(DownloadFailed, match=r"pip install torchserve-py\[s3\]"):
        await a_store(folder).fetch(URL)


async def test_an_endpoint_that_nobody_serves(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="Could not connect to the endpoint URL"):
        await a_store(folder).fetch(URL)


async def test_the_rules_of_other_downloads_hold(folder: Path) -> None:
    with pytest.raises(DownloadFailed, match="longer than archive_max_bytes=3"):
        await a_store(folder, archive_max_bytes=3).fetch(URL)
    with pytest.raises(ModelNotFound, match="does not match any allowed URL"):
        await a_store(folder, allowed_urls=("https?://.*",)).fetch(URL)
    with pytest.raises(Internal, match="Failed to save model"):
        await a_store(folder).fetch("s3://models/junk.mar")
    for url in ("s3://models", "s3://models/", "s3://models/../x.mar"):
        with pytest.raises(ModelNotFound):
            await a_store(folder).fetch(url)
    assert names(folder) == []


async def test_a_registration_that_is_given_up_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give_up(a_store(folder), URL, monkeypatch)
    assert names(folder) == []


async def test_register_and_load_models_take_such_urls(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        await site.management.startup.load(f"named={URL}")
        assert site.catalog.find("named").url == URL
        await site.management.unregister("named", None)
        assert names(folder) == []
        assert (await site.register(URL)).status == 200
