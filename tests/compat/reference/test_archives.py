"""Where archives come from, row by row (reference §8.9, §5.2): files and folders of the store,
other folders, URLs; and what must not be reached."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.compat.reference.web import Web
from tests.compat.reference.wire import error
from tests.core_rig import model_folder
from tests.e2e.conftest import MARS, Server, archive

pytestmark = pytest.mark.e2e


def mar(server: Server, name: str = "echo") -> bytes:
    """An archive's bytes."""
    return (server.store / f"{name}.mar").read_bytes()


def registers(server: Server, url: str, model: str) -> None:
    """It can be registered, and describe says from where."""
    answer = server.register(url)
    assert answer.status == 200, answer.text
    assert server.manage("GET", f"/models/{model}").json[0]["modelUrl"] == url


def folder(place: Path, model: str) -> Path:
    """An unpacked model, `{place}/{model}-1.0`."""
    place.mkdir(parents=True, exist_ok=True)
    return model_folder(place, model)


# Local


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("echo.mar", id="8.9 file of the store"),
        pytest.param("/somewhere/else/echo.mar", id="8.9 absolute path, reduced to its name"),
        pytest.param("sub/echo.mar", id="8.9 sub-path, reduced to its name"),
        pytest.param("echo.mar/", id="8.9 slash behind it"),
    ],
)
def test_local_files(server: Server, url: str) -> None:
    registers(server, url, "echo")


def test_local_folder(server: Server) -> None:
    """[8.9 directory of the store] used in place and not deleted."""
    place = folder(server.store, "inside")
    registers(server, "inside-1.0", "inside")
    assert server.manage("DELETE", "/models/inside").status == 200
    assert (place / "handler.py").is_file()


def test_local_folder_elsewhere(server: Server) -> None:
    """[8.9 url is a directory anywhere on disk] used in place and not deleted."""
    place = folder(server.folder / "mine", "outside")
    registers(server, str(place), "outside")
    assert server.manage("DELETE", "/models/outside").status == 200
    assert (place / "handler.py").is_file()


def test_local_folder_beats_one_of_the_store(server: Server) -> None:
    """[8.9 else if url itself is a directory, else model_store/basename]"""
    folder(server.store / "both", "loser")
    place = folder(server.folder / "mine" / "both", "winner")
    registers(server, str(place.parent), "winner")


def test_local_folder_in_a_folder(server: Server) -> None:
    """[8.9 exactly one sub-directory is entered] SageMaker's layout."""
    folder(server.store / "wrapped", "inner")
    registers(server, "wrapped", "inner")


@pytest.mark.parametrize(
    "ending",
    [
        pytest.param("tar.gz", id="8.9 tar.gz"),
        pytest.param("tgz", id="8.9 any other file"),
        pytest.param("model", id="8.9 no ending that says so"),
    ],
)
def test_local_tgz(server: Server, ending: str) -> None:
    """The first path component is stripped."""
    source = folder(server.folder / "tgz" / ending, "packed")
    with tarfile.open(server.store / f"packed.{ending}", "w:gz") as file:
        file.add(source, "anything")
    registers(server, f"packed.{ending}", "packed")


def test_archivers_tgz(server: Server) -> None:
    """[8.9 tar.gz] of the archiver."""
    archive(server.store, "tarred", MARS / "echo.py", "--archive-format", "tgz")
    assert server.register("tarred.tar.gz", initial_workers=1).status == 200
    assert server.predict("tarred", b"there").body == b"there"


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("none.mar", id="8.9 not there"),
        pytest.param("ftp://host/none.mar", id="8.9 ftp"),
        pytest.param("/", id="8.9 root"),
    ],
)
def test_local_not_found(server: Server, url: str) -> None:
    answer = server.register(url)
    assert answer.body == error(404, "ModelNotFoundException", f"Model not found at: {url}")


# URLs


def downloads(server: Server, url: str) -> None:
    """The model serves, its archive is in the store and goes away with it (§5.5)."""
    before = sorted(server.store.iterdir())
    registers(server, url, "echo")
    (added,) = set(server.store.iterdir()) - set(before)
    assert added.name == "fetched.mar"
    assert server.manage("DELETE", "/models/echo").status == 200
    assert sorted(server.store.iterdir()) == before


@pytest.mark.parametrize(
    ("path", "moved"),
    [
        pytest.param("/open/fetched.mar", {}, id="8.9 http"),
        pytest.param("/open/fetched.mar?sig=a/b.mar&x=1", {}, id="8.9 http with a query"),
        pytest.param("/open/%66etched.mar", {"/open/%66etched.mar": "/open/z"}, id="8.9 escapes"),
        pytest.param("/open/fetched.mar", {"/open/fetched.mar": "/open/z"}, id="8.9 redirect"),
    ],
)
def test_url_downloads(server: Server, web: Web, path: str, moved: dict[str, str]) -> None:
    web.files = {"/open/fetched.mar": mar(server), "/open/z": mar(server)}
    web.moved = moved
    downloads(server, web.url(path))
    downloads(server, web.url(path).replace("http", "HTTP"))  # [8.9 case-insensitive]


def test_file_url_downloads(server: Server) -> None:
    """[8.9 file:// copies] The copy goes away with the model, the file stays."""
    place = server.folder / "open"
    place.mkdir()
    (place / "fetched.mar").write_bytes(mar(server))
    downloads(server, f"file://{place}/fetched.mar")
    assert (place / "fetched.mar").is_file()


def test_url_of_a_broken_archive_leaves_nothing(server: Server, web: Web) -> None:
    """[5.2 unzip failure] A second try with a good file must be possible."""
    web.files = {"/open/fetched.mar": mar(server)[:300]}
    url = web.url("/open/fetched.mar")
    answer = server.register(url)
    assert (answer.status, answer.json["type"]) == (500, "InternalServerException")
    assert answer.json["message"].startswith(f"Failed to save model: {url}\n")
    web.files = {"/open/fetched.mar": mar(server)}
    downloads(server, url)


def test_url_of_a_model_that_cannot_load_leaves_nothing(server: Server, web: Web) -> None:
    """[5.2 model is unregistered again] with its download."""
    web.files = {"/open/fetched.mar": mar(server, "syntax")}
    assert server.register(web.url("/open/fetched.mar"), initial_workers=1).status == 500
    web.files = {"/open/fetched.mar": mar(server)}
    downloads(server, web.url("/open/fetched.mar"))


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("{web}/secret/x.mar", id="8.9 redirect not allowed"),
        pytest.param("/secret/x.mar", id="8.9 redirect not allowed, relative"),
        pytest.param("ftp://127.0.0.1/open/x.mar", id="8.9 redirect to ftp"),
    ],
)
def test_url_redirects_are_checked(server: Server, web: Web, target: str) -> None:
    """Mended: TorchServe followed a redirect to any place."""
    web.files = {"/secret/x.mar": mar(server)}
    target = target.format(web=web.url(""), folder=server.folder)
    web.moved = {"/open/fetched.mar": target}
    full = web.url(target) if target.startswith("/") else target
    answer = server.register(web.url("/open/fetched.mar"))
    text = f"Given URL {full} does not match any allowed URL(s)"
    assert answer.body == error(404, "ModelNotFoundException", text)
    assert not (server.store / "fetched.mar").exists()


def test_url_redirects_to_files_are_refused(server: Server, web: Web) -> None:
    """[8.9 redirects as per Java URL] which follows none to another protocol."""
    web.moved = {"/open/fetched.mar": f"file://{server.folder}/open/echo.mar"}
    answer = server.register(web.url("/open/fetched.mar"))
    assert (answer.status, answer.json["type"]) == (400, "DownloadArchiveException")


# What must not be reached


@pytest.mark.parametrize(
    "spelling",
    [
        "../secret.mar",
        "..",
        "a/../../secret.mar",
        "..\\secret.mar",
        "file://{folder}/open/../secret.mar",
        "file://{folder}/open/%2e%2e/secret.mar",
        "file://{folder}/open/%2E./secret.mar",
        "file://{folder}/open/..%2fsecret.mar",
        "file://{folder}/open/%2e%2e%2fsecret.mar",
        "{web}/open/../secret.mar",
        "{web}/open/%2e%2e/secret.mar",
        "{web}/open/%2e%2e",
        "HTTP{rest}/open/.%2e/secret.mar",
    ],
)
def test_traversal_in_the_url(server: Server, web: Web, spelling: str) -> None:
    """[5.2 url contains ..] in every spelling; escaped ones are mended."""
    (server.folder / "open").mkdir(exist_ok=True)
    (server.folder / "secret.mar").write_bytes(mar(server))
    web.files = {"/secret.mar": mar(server)}
    url = spelling.format(folder=server.folder, web=web.url(""), rest=web.url("")[4:])
    for given in (url, quote(url)):
        answer = server.ask(1, "POST", f"/models?url={given}")
        text = f"Relative path is not allowed in url: {url}"
        if given is url and "%" in url:  # unescaped once by the query
            assert answer.json["message"].startswith("Relative path is not allowed in url: ")
        else:
            assert answer.body == error(404, "ModelNotFoundException", text)


def test_traversal_by_a_redirect(server: Server, web: Web) -> None:
    web.files = {"/secret/x.mar": mar(server), "/open/../secret/x.mar": mar(server)}
    target = web.url("/open/../secret/x.mar")
    web.moved = {"/open/fetched.mar": target}
    answer = server.register(web.url("/open/fetched.mar"))
    text = f"Relative path is not allowed in url: {target}"
    assert answer.body == error(404, "ModelNotFoundException", text)


@pytest.mark.parametrize("name", ["%2ehidden.mar", ".hidden.mar", "%00.mar"])
def test_names_that_cannot_be_in_a_store(server: Server, web: Web, name: str) -> None:
    web.files = {f"/open/{name}": mar(server)}
    before = sorted(server.store.iterdir())
    answer = server.register(web.url(f"/open/{name}"))
    assert (answer.status, answer.json["type"]) == (404, "ModelNotFoundException")
    assert sorted(server.store.iterdir()) == before


@pytest.mark.parametrize("name", ["../escaped.py", "/tmp/escaped.py", "a/../../escaped.py"])
@pytest.mark.parametrize("kind", ["mar", "tar.gz"])
def test_traversal_in_an_archive(server: Server, name: str, kind: str) -> None:
    """[8.9 Zip-slip entries] 500, and nothing is written anywhere."""
    path = server.store / f"slip.{kind}"
    source = server.folder / "escaped.py"
    source.write_text("")
    if kind == "mar":
        with zipfile.ZipFile(path, "w") as file:
            file.write(source, "handler.py")
            file.writestr(zipfile.ZipInfo(name), "")
    else:
        with tarfile.open(path, "w:gz") as packed:
            member = packed.gettarinfo(source)
            member.name = name if name.startswith("/") else f"top/{name}"
            packed.addfile(member)
    answer = server.register(path.name)
    assert (answer.status, answer.json["type"]) == (500, "InternalServerException")
    assert answer.json["message"].startswith(f"Failed to save model: {path.name}\n")
    models = server.folder / "tmp" / "models"
    assert not [found for found in models.rglob("*") if "escaped" in found.name]
    assert not os.path.exists("/tmp/escaped.py")
