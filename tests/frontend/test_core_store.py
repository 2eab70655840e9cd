"""Archives: found, downloaded, unpacked, and gone again without a trace."""

from __future__ import annotations

import asyncio
import http.server
import os
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.core_rig import model_folder
from ts_frontend.config import Config
from ts_frontend.core.download import Download
from ts_frontend.core.s3 import sign_get
from ts_frontend.core.store import Store, default_name
from ts_frontend.errors import DownloadFailed, Internal, InvalidModel, ModelNotFound, ServeError


class Files(http.server.BaseHTTPRequestHandler):
    """Serves `files`; /to/X redirects to X, /short promises more bytes than it sends."""

    files: dict[str, bytes]
    seen: list[dict[str, str]]

    def do_GET(self) -> None:
        self.seen.append({name.lower(): value for name, value in self.headers.items()})
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        if self.path == "/short.mar":
            self.send_response(200)
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b"only this")
            self.close_connection = True
            return
        body = self.files.get(self.path)
        self.send_response(404 if body is None else 200)
        self.send_header("content-length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    Files.files = {"/good.mar": mar(tmp_path / "served").read_bytes(), "/junk.mar": b"junk"}
    Files.seen = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def mar(place: Path, name: str = "m", **entries: str) -> Path:
    """Make an archive file ``{name}.mar``."""
    folder = model_folder(place / "src", name, **entries)
    path = place / f"{name}.mar"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "temp").mkdir()
    return tmp_path / "store"


def a_store(folder: Path, **options: object) -> Store:
    config = Config(model_store=folder, temp_dir=folder.parent / "temp", **options)  # type: ignore[arg-type]
    return Store(config)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def leftovers(folder: Path) -> list[str]:
    models = folder.parent / "temp" / "models"
    return [path.name for path in models.iterdir()] if models.exists() else []


async def test_an_archive_of_the_store_is_unpacked_and_discarded(folder: Path) -> None:
    path = mar(folder)
    store = a_store(folder)
    archive = await store.fetch("m.mar")
    assert archive.root.parent.parent == folder.parent / "temp" / "models"
    assert archive.root.parent.name.startswith(f"{os.getpid()}-")
    assert len(archive.root.name) == 32
    int(archive.root.name, 16)
    assert archive.model_dir == archive.root
    assert (archive.model_dir / "handler.py").is_file()
    assert archive.manifest["model"]["modelName"] == "m"
    await store.discard(archive)
    assert leftovers(folder) == []
    assert path.is_file()


async def test_a_path_is_reduced_to_its_name_inside_the_store(folder: Path) -> None:
    mar(folder)
    store = a_store(folder)
    archive = await store.fetch("/somewhere/else/m.mar")
    assert archive.manifest["model"]["modelName"] == "m"


async def test_a_folder_is_used_in_place(folder: Path, tmp_path: Path) -> None:
    outside = model_folder(tmp_path / "mine", "m")
    inside = model_folder(folder, "n")
    store = a_store(folder)
    for url, real in ((str(outside), outside), ("n-1.0", inside)):
        archive = await store.fetch(url)
        assert archive.model_dir.is_symlink()
        assert archive.model_dir.resolve() == real
        assert archive.model_dir.parent == archive.root
        await store.discard(archive)
        assert (real / "handler.py").is_file()
    assert leftovers(folder) == []


async def test_a_folder_that_holds_just_a_folder_is_entered(folder: Path) -> None:
    inner = model_folder(folder / "wrapped", "m")
    archive = await a_store(folder).fetch("wrapped")
    assert archive.model_dir.name == "m-1.0"
    assert archive.model_dir.resolve() == inner


async def test_an_archive_without_manifest_has_an_empty_one(folder: Path) -> None:
    with zipfile.ZipFile(folder / "bare.mar", "w") as archive:
        archive.writestr("handler.py", "")
    fetched = await a_store(folder).fetch("bare.mar")
    assert fetched.manifest.get("model", {}) == {}


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "empty url"),
        ("../x.mar", "Relative path is not allowed in url: ../x.mar"),
        ("none.mar", "Model not found at: none.mar"),
        (
            "s3://bucket/x.mar",
            "Given URL s3://bucket/x.mar does not match any allowed URL(s)",
        ),
        ("/", "Model not found at: /"),
        ("https://only.example/%00.mar", "Model not found at: https://only.example/%00.mar"),
        ("http://h/x.mar", "Given URL http://h/x.mar does not match any allowed URL(s)"),
        ("FILE:///x.mar", "Given URL FILE:///x.mar does not match any allowed URL(s)"),
    ],
)
async def test_what_is_not_found(folder: Path, url: str, text: str) -> None:
    store = a_store(folder, allowed_urls=("https://only.example/.*",))
    with pytest.raises(ModelNotFound) as caught:
        await store.fetch(url)
    assert caught.value.message == text


async def test_what_is_not_found_may_have_been_meant(folder: Path, tmp_path: Path) -> None:
    (folder / "foo.mar").write_text("")
    outside = tmp_path / "outside" / "bar.mar"
    outside.parent.mkdir()
    outside.write_text("")
    store = a_store(folder)
    for url, second in (
        ("foo", f"looked in {folder}, did you mean foo.mar?"),
        ("/some/where/foo", f"looked in {folder}, did you mean foo.mar?"),
        (
            str(outside),
            f"looked in {folder}: archives are taken from the model store only. "
            "Put the file there and name it bar.mar",
        ),
    ):
        with pytest.raises(ModelNotFound) as caught:
            await store.fetch(url)
        assert caught.value.message == f"Model not found at: {url}\n{second}"


async def test_no_store_comes_first() -> None:
    with pytest.raises(ModelNotFound, match=r"^Model store has not been configured\.$"):
        await Store(Config()).fetch("")
    assert Store(Config()).entries() == []


@pytest.mark.parametrize("damage", ["truncated", "not a zip", "empty"])
async def test_a_broken_archive_says_why_and_leaves_nothing(folder: Path, damage: str) -> None:
    path = mar(folder)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-40], "not a zip": b"no zip", "empty": b""}[damage])
    with pytest.raises(Internal) as caught:
        await a_store(folder).fetch("m.mar")
    first, cause = caught.value.message.split("\n")
    assert first == "Failed to save model: m.mar"
    assert "m.mar" in cause
    assert leftovers(folder) == []


async def test_an_unparsable_manifest_is_an_invalid_model(folder: Path) -> None:
    with zipfile.ZipFile(folder / "m.mar", "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", "{not json")
    model_folder(folder, "n")
    (folder / "n-1.0" / "MAR-INF" / "MANIFEST.json").write_text("[]")
    for url in ("m.mar", "n-1.0"):
        with pytest.raises(InvalidModel, match=r"^Failed to parse signature\.json\. "):
            await a_store(folder).fetch(url)
    assert leftovers(folder) == []


async def test_limits_reach_the_archiver(folder: Path) -> None:
    mar(folder)
    with pytest.raises(Internal, match=r"Failed to save model: m\.mar"):
        await a_store(folder, archive_max_bytes=10).fetch("m.mar")


def test_entries_for_load_models_all(folder: Path) -> None:
    for name in ("b.mar", "a.model", "c.tar.gz", "notes.txt", ".hidden.mar"):
        (folder / name).touch()
    (folder / "d").mkdir()
    assert a_store(folder).entries() == ["a.model", "b.mar", "c.tar.gz", "d"]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("resnet-18.mar", "resnet_18"),
        ("http://h/a/My.Net.model?x=1.mar", "My_Net"),
        ("_x.mar", "_x"),
        ("folder/some.dir", "some_dir"),
        ("x.tar.gz", "x_tar_gz"),
    ],
)
def test_names_for_archives_that_have_none(url: str, name: str) -> None:
    assert default_name(url) == name


async def test_a_url_is_downloaded_whole_and_deleted_with_the_model(folder: Path, web: str) -> None:
    store = a_store(folder)
    archive = await store.fetch(f"{web}/good.mar")
    assert names(folder) == ["good.mar"]
    with pytest.raises(Internal, match=r"^Model file already exists good\.mar$"):
        await store.fetch(f"{web}/good.mar")
    assert (folder / "good.mar").is_file()
    await store.discard(archive)
    assert names(folder) == []
    assert leftovers(folder) == []


async def test_a_file_url_is_copied(folder: Path, tmp_path: Path) -> None:
    source = mar(tmp_path / "a place", "m")
    store = a_store(folder)
    archive = await store.fetch(source.as_uri())
    assert archive.downloaded == folder / "m.mar"
    await store.discard(archive)
    assert source.is_file()


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("/none.mar", "the server answered 404"),
        ("/short.mar", "it ended after 9 of 1000 bytes"),
        ("/to//short.mar", "it ended after 9 of 1000 bytes"),
        ("/to/ftp://h/x.mar", "ftp"),
    ],
)
async def test_failed_downloads_leave_nothing(
    folder: Path, web: str, path: str, cause: str
) -> None:
    with pytest.raises(ServeError) as caught:
        await a_store(folder).fetch(web + path)
    assert cause in caught.value.message
    assert names(folder) == []


async def test_the_text_of_a_failed_download(folder: Path) -> None:
    for url in (
        "http://127.0.0.1:1/x.mar",
        "file:///none/x.mar",
        "http://127.0.0.1:99999/x.mar",
        "http://[x/m.mar",
    ):
        with pytest.raises(DownloadFailed) as caught:
            await a_store(folder).fetch(url)
        assert caught.value.message.startswith(f"Failed to download archive from: {url}\n")
    assert names(folder) == []


async def test_redirects_must_be_allowed_too(folder: Path, web: str) -> None:
    allowed = (rf"{web}/to/.*", rf"{web}/good\.mar")
    store = a_store(folder, allowed_urls=allowed)
    archive = await store.fetch(f"{web}/to/{web}/good.mar")
    await store.discard(archive)
    with pytest.raises(ModelNotFound) as caught:
        await store.fetch(f"{web}/to/{web}/junk.mar")
    text = f"Given URL {web}/junk.mar does not match any allowed URL(s)"
    assert caught.value.message == text
    assert names(folder) == []


async def test_a_downloaded_archive_that_is_broken_does_not_stay(folder: Path, web: str) -> None:
    with pytest.raises(Internal, match="Failed to save model"):
        await a_store(folder).fetch(f"{web}/junk.mar")
    assert names(folder) == []


async def test_a_download_has_a_limit(folder: Path, web: str) -> None:
    with pytest.raises(DownloadFailed, match="longer than archive_max_bytes=3"):
        await a_store(folder, archive_max_bytes=3).fetch(f"{web}/junk.mar")
    assert names(folder) == []


async def test_of_two_downloads_of_one_name_the_second_fails(folder: Path, web: str) -> None:
    store = a_store(folder)
    results = await asyncio.gather(
        *[store.fetch(f"{web}/good.mar") for _ in range(4)], return_exceptions=True
    )
    failed = [result for result in results if isinstance(result, Internal)]
    assert len(failed) == 3
    assert {error.message for error in failed} == {"Model file already exists good.mar"}
    assert names(folder) == ["good.mar"]


async def give_up(store: Store, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cancel a fetch while its download is under way, and wait for its end."""
    reached, go_on = threading.Event(), threading.Event()
    original: Callable[..., None] = Download._copy

    def slow(self: Download, *args: object) -> None:
        reached.set()
        go_on.wait(10)
        original(self, *args)

    monkeypatch.setattr(Download, "_copy", slow)
    task = asyncio.create_task(store.fetch(url))
    await asyncio.to_thread(reached.wait, 10)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelling_a_fetch_leaves_nothing(
    folder: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await give_up(a_store(folder), f"{web}/good.mar", monkeypatch)
    assert names(folder) == []
    assert leftovers(folder) == []


async def test_s3_requests_are_signed(
    folder: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DownloadFailed, match="environment variable AWS_ACCESS_KEY_ID"):
        await a_store(folder).fetch(f"{web}/good.mar", s3_sse_kms=True)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "x")
    await a_store(folder).fetch(f"{web}/good.mar", s3_sse_kms=True)
    (sent,) = Files.seen
    assert sent["authorization"].startswith("AWS4-HMAC-SHA256 Credential=x/")
    assert sent["x-amz-content-sha256"].startswith("e3b0c44298fc1c14")
    assert sent["host"] == web.removeprefix("http://")


def test_the_signature_of_the_documentation() -> None:
    # The GET Object example of the Signature Version 4 documentation.
    environ = {
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    signed = sign_get(
        "https://examplebucket.s3.amazonaws.com/test.txt",
        environ,
        now=datetime(2013, 5, 24, tzinfo=UTC),
        headers={"Range": "bytes=0-9"},
    )
    assert signed["authorization"].endswith(
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_temporary_credentials_sign_their_token() -> None:
    environ = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "c",
        "AWS_SESSION_TOKEN": "token",
    }
    signed = sign_get("https://b.s3.amazonaws.com/x?b=2&a=1", environ)
    assert signed["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in signed["authorization"]


HOLDER = """
import sys
from pathlib import Path
from ts_frontend.core.own_folder import OwnFolder
root = OwnFolder(Path(sys.argv[1])).enter()
root.mkdir()
print(root.parent.name, flush=True)
sys.stdin.read()
"""


async def test_the_folder_of_a_killed_server_is_removed_and_no_other(folder: Path) -> None:
    models = folder.parent / "temp" / "models"
    (models / ("a" * 32)).mkdir(parents=True)  # TorchServe's own
    mar(folder)
    store, other = a_store(folder), a_store(folder)
    archive = await store.fetch("m.mar")
    kept = {"a" * 32, archive.root.parent.name}
    command = [sys.executable, "-c", HOLDER, str(models)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:  # noqa: ASYNC220  (blocks for the exec only)
        assert process.stdout is not None
        held = process.stdout.readline().decode().strip()
        await other.clear_stale()
        assert set(leftovers(folder)) == kept | {held}
        process.send_signal(signal.SIGKILL)
    assert set(leftovers(folder)) == kept | {held}
    await other.clear_stale()
    assert set(leftovers(folder)) == kept
    await store.release(archive)
    assert leftovers(folder) == ["a" * 32]
