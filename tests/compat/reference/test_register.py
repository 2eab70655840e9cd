"""Register, row by row (reference §5.2): parameters, outcomes and errors of `POST /models`."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.web import Web
from tests.compat.reference.wire import error, pretty
from tests.core_rig import Site, never, until
from tests.e2e.conftest import MARS, Answer, Server, archive
from tests.e2e.conftest import until as eventually
from ts_frontend.errors import ModelNotFound, ModelSetupFailed

pytestmark = pytest.mark.e2e

NO_WORKERS = (
    'Model "{}" Version: 1.0 registered with 0 initial workers. '
    "Use scale workers API to add workers for the model."
)
JSON = "application/json"


def described(server: Server, model: str, version: str = "") -> dict[str, Any]:
    """The only element of a describe answer."""
    (body,) = server.manage("GET", f"/models/{model}/{version}").json
    return dict(body)


def post(server: Server, body: str, kind: str = JSON, query: str = "") -> Answer:
    """Register with a body."""
    return server.ask(1, "POST", f"/models{query}", body.encode(), Content_Type=kind)


def status(answer: Answer) -> tuple[int, str]:
    """The code of a status object and its text; the body has nothing else."""
    text = answer.json["status"]
    assert answer.body == pretty({"status": text})
    return answer.status, text


# Parameters


def from_query(server: Server, **parameters: Any) -> dict[str, Any]:
    assert server.register("echo.mar", **parameters).status == 200
    return described(server, parameters.get("model_name", "echo"))


def from_json(server: Server, **parameters: Any) -> dict[str, Any]:
    answer = post(server, json.dumps({"url": "echo.mar", **parameters}))
    assert answer.status == 200, answer.text
    return described(server, parameters.get("model_name", "echo"))


PARAMETERS = [
    ("model_name", "other", "modelName", "other", "echo"),
    ("runtime", "python3", "runtime", "python3", "python"),
    ("batch_size", 7, "batchSize", 7, 1),
    ("max_batch_delay", 70, "maxBatchDelay", 70, 100),
    ("initial_workers", 1, "minWorkers", 1, 0),
    ("response_timeout", 7, "responseTimeout", 7, 120),
    ("startup_timeout", 70, "startupTimeout", 70, 120),
]


@pytest.mark.parametrize("form", [from_query, from_json], ids=["query", "json"])
@pytest.mark.parametrize(
    ("name", "value", "field", "expected", "default"),
    [pytest.param(*row, id=f"5.2 {row[0]}") for row in PARAMETERS],
)
def test_register_parameters(
    server: Server, form: Any, name: str, value: Any, field: str, expected: Any, default: Any
) -> None:
    assert form(server, **{name: value})[field] == expected
    if field != "modelName":
        assert server.manage("DELETE", "/models/echo").status == 200
    assert form(server)[field] == default


@pytest.mark.parametrize(
    ("name", "unset", "field", "default"),
    [
        pytest.param("batch_size", "-1", "batchSize", 1, id="5.2 batch_size unset"),
        pytest.param("max_batch_delay", "-100", "maxBatchDelay", 100, id="5.2 delay unset"),
        pytest.param("max_batch_delay", "-10000", "maxBatchDelay", 100, id="5.2 json delay unset"),
        pytest.param("response_timeout", "-1", "responseTimeout", 120, id="5.2 response unset"),
        pytest.param("startup_timeout", "-1", "startupTimeout", 120, id="5.2 startup unset"),
        pytest.param("initial_workers", "-1", "minWorkers", 0, id="5.2 workers below 0"),
        pytest.param("batch_size", "many", "batchSize", 1, id="5.2 non-integer"),
        pytest.param("batch_size", "1.5", "batchSize", 1, id="5.2 fraction"),
    ],
)
def test_register_values_that_mean_the_default(
    server: Server, name: str, unset: str, field: str, default: int
) -> None:
    assert from_query(server, **{name: unset})[field] == default


def test_register_handler(server: Server) -> None:
    """[5.2 handler] The parameter beats the manifest's."""
    archive(server.store, "two", MARS / "echo.py", "--extra-files", str(MARS / "whoami.py"))
    assert server.register("two.mar", handler="whoami.py:handle", initial_workers=1).status == 200
    assert server.predict("two").json["model_name"] == "two"


@pytest.mark.parametrize(
    ("value", "waits"),
    [
        pytest.param(None, True, id="5.2 synchronous default"),
        pytest.param("true", True, id="5.2 synchronous true"),
        pytest.param("TRUE", True, id="5.2 synchronous any case"),
        pytest.param("false", False, id="5.2 synchronous false"),
        pytest.param("1", False, id="5.2 synchronous anything else"),
        pytest.param("", False, id="5.2 synchronous empty"),
    ],
)
def test_register_synchronous(server: Server, value: str | None, waits: bool) -> None:
    options = {} if value is None else {"synchronous": value}
    answer = server.register("echo.mar", initial_workers=1, **options)
    assert answer.status == (200 if waits else 202)


def test_register_s3_sse_kms(server: Server, web: Web) -> None:
    """[5.2 s3_sse_kms] Without credentials in the environment it can't be signed."""
    answer = server.register(web.url("/open/s3.mar"), s3_sse_kms="true")
    assert (answer.status, answer.json["type"]) == (400, "DownloadArchiveException")
    assert "AWS_ACCESS_KEY_ID" in answer.json["message"]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        pytest.param('{"url": "echo.mar", "batch_size": 3}', JSON, id="5.2 json"),
        pytest.param('{"url": "echo.mar", "batch_size": "3"}', JSON, id="5.2 number as string"),
        pytest.param("{'url': 'echo.mar', 'batch_size': 3}", JSON, id="5.2 single quotes"),
        pytest.param("{url: echo.mar, batch_size: 3}", JSON, id="5.2 unquoted"),
        pytest.param('{"url": "echo.mar", "batch_size": 3}', "APPLICATION/JSON", id="5.2 case"),
        pytest.param(
            '{"url": "echo.mar", "batch_size": 3}', f"{JSON}; charset=utf-8", id="5.2 charset"
        ),
        pytest.param(
            '{"url": "echo.mar", "batch_size": 3, "synchronous": true, "s3_sse_kms": "false"}',
            JSON,
            id="5.2 booleans",
        ),
    ],
)
def test_register_json_bodies(server: Server, body: str, kind: str) -> None:
    assert status(post(server, body, kind)) == (200, NO_WORKERS.format("echo"))
    assert described(server, "echo")["batchSize"] == 3


def test_register_json_hides_the_query(server: Server) -> None:
    """[5.2 only the JSON body is read]"""
    answer = post(server, '{"batch_size": 3}', query="?url=echo.mar")
    assert answer.body == error(400, "BadRequestException", "Parameter url is required.")


def test_register_form_bodies_are_not_read(server: Server) -> None:
    """[5.2 form bodies] Only the query counts."""
    form = "application/x-www-form-urlencoded"
    answer = post(server, "url=echo.mar", form)
    assert answer.body == error(400, "BadRequestException", "Parameter url is required.")
    assert post(server, "batch_size=3", form, query="?url=echo.mar").status == 200
    assert described(server, "echo")["batchSize"] == 1


# Outcomes


@pytest.mark.parametrize("synchronous", ["true", "false"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="5.2 no workers wanted"),
        pytest.param({"initial_workers": 0}, id="5.2 initial_workers 0"),
        pytest.param({"initial_workers": -3}, id="5.2 initial_workers below 0"),
    ],
)
def test_register_without_workers(
    server: Server, options: dict[str, object], synchronous: str
) -> None:
    answer = server.register("echo.mar", synchronous=synchronous, **options)
    assert status(answer) == (200, NO_WORKERS.format("echo"))


def test_register_async(server: Server) -> None:
    """[5.2 workers wanted, synchronous=false]"""
    answer = server.register("echo.mar", initial_workers=1, synchronous="false")
    assert status(answer) == (202, "Processing worker updates...")
    eventually(lambda: server.ready("echo"))


def test_register_sync(server: Server) -> None:
    """[5.2 sync, all up]"""
    answer = server.register("echo.mar", initial_workers=2)
    assert status(answer) == (200, 'Model "echo" Version: 1.0 registered with 2 initial workers')
    assert server.ready("echo", 2)


def test_register_a_yaml_pair_of_workers(server: Server) -> None:
    """[5.2 no valid yaml worker pair] A pair in the yaml beats `initial_workers`."""
    config = server.folder / "pair.yaml"
    config.write_text("minWorkers: 1\nmaxWorkers: 2\n")
    archive(server.store, "pair", MARS / "echo.py", "--config-file", str(config))
    answer = server.register("pair.mar", initial_workers=0)
    assert status(answer) == (200, 'Model "pair" Version: 1.0 registered with 1 initial workers')
    body = described(server, "pair")
    assert (body["minWorkers"], body["maxWorkers"], len(body["workers"])) == (1, 2, 1)


async def test_register_partly_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[5.2 workers loaded event fired but fewer than min are running] 206."""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    async with Site(tmp_path) as site:
        held = []

        async def load(spec: object) -> None:
            held.append(spec)
            if len(held) == 2:
                site.backend.workers[0].die(1, None)
                await until(lambda: site.catalog.find("m").slots[0].error is not None)
            elif len(held) > 2:
                await never(spec)  # type: ignore[arg-type]

        site.backend.load = load
        outcome = await site.register(site.model(), 2)
        assert (outcome.status, outcome.message) == (206, "Workers scaling in progress...")


@pytest.mark.parametrize(
    ("url", "code", "cause"),
    [
        pytest.param("syntax.mar", 500, "SyntaxError", id="5.2 sync, a worker failed"),
        pytest.param("memory.mar", 507, "System out of memory", id="5.2 sync, out of memory"),
    ],
)
def test_register_failed_start(server: Server, url: str, code: int, cause: str) -> None:
    """The model is unregistered again; the text goes on with the cause."""
    name = url.removesuffix(".mar")
    answer = server.register(url, initial_workers=1)
    assert answer.status == code
    body = answer.json
    assert list(body) == ["code", "type", "message"]
    assert (body["code"], body["type"]) == (code, "InternalServerException")
    first, _, rest = body["message"].partition("\n")
    assert first == f"Failed to start workers for model {name} version: 1.0"
    assert cause in rest
    assert server.manage("GET", f"/models/{name}").status == 404


def test_register_async_failed_start(server: Server) -> None:
    """[5.2 with synchronous=false] A failing worker leaves the model registered and retrying."""
    answer = server.register("syntax.mar", initial_workers=1, synchronous="false")
    assert status(answer) == (202, "Processing worker updates...")
    eventually(lambda: "Retry worker: " in server.log("ts_log"))
    (worker,) = server.workers("syntax")
    assert worker["status"] == "UNLOADING"


# Errors, in the order of the checks

ERRORS = [
    ("no url", "", 400, "BadRequestException", "Parameter url is required."),
    (
        "bad runtime",
        "?url=&runtime=Python",
        400,
        "BadRequestException",
        "Invalid RuntimeType value: Python",
    ),
    (
        "startup_timeout 0, mended",
        "?url=&startup_timeout=0",
        400,
        "BadRequestException",
        "Parameter startup_timeout must be 1 second or more, not 0; "
        "leave it out, or send -1, for default_startup_timeout.",
    ),
    ("url empty", "?url=", 404, "ModelNotFoundException", "empty url"),
    (
        "url contains ..",
        "?url=http://x/../echo.mar",
        404,
        "ModelNotFoundException",
        "Relative path is not allowed in url: http://x/../echo.mar",
    ),
    (
        "URL not allowed",
        "?url=https://127.0.0.1/open/x.mar",
        404,
        "ModelNotFoundException",
        "Given URL https://127.0.0.1/open/x.mar does not match any allowed URL(s)",
    ),
    (
        "target file already in model store",
        "?url=http://127.0.0.1:1/open/echo.mar",
        500,
        "InternalServerException",
        "Model file already exists echo.mar",
    ),
    (
        "nothing found locally",
        "?url=/somewhere/none.mar",
        404,
        "ModelNotFoundException",
        "Model not found at: /somewhere/none.mar",
    ),
]


@pytest.mark.parametrize(
    ("query", "code", "kind", "message"),
    [pytest.param(*row[1:], id=f"5.2 {row[0]}") for row in ERRORS],
)
def test_register_errors(server: Server, query: str, code: int, kind: str, message: str) -> None:
    answer = server.ask(1, "POST", f"/models{query}")
    assert (answer.status, answer.body) == (code, error(code, kind, message))


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        pytest.param("/open/absent.mar", "404 Not Found", id="5.2 HTTP 4xx"),
        pytest.param("/open/short.mar", "it ended after 4 of 10 bytes", id="5.2 truncated"),
        pytest.param("refused", "Connection refused", id="5.2 refused"),
        pytest.param("http://127.0.0.1:99999/open/x.mar", "", id="5.2 bad port"),
        pytest.param("file:///no/open/x.mar", "No such file or directory", id="5.2 no file"),
    ],
)
def test_register_failed_downloads(server: Server, web: Web, path: str, cause: str) -> None:
    web.files["/open/short.mar"], web.lengths["/open/short.mar"] = b"half", 10
    url = "http://127.0.0.1:1/open/x.mar" if path == "refused" else path
    url = web.url(path) if path.startswith("/") else url
    before = sorted(server.store.iterdir())
    answer = server.register(url)
    body = answer.json
    assert (answer.status, body["type"]) == (400, "DownloadArchiveException")
    first, _, rest = body["message"].partition("\n")
    assert first == f"Failed to download archive from: {url}"
    assert cause in rest
    assert sorted(server.store.iterdir()) == before


MANIFESTS = [
    ("bad manifest JSON", "{", "Failed to parse signature.json. "),
    ("no object", "[]", "Failed to parse signature.json. "),
    ("Missing Model entry", '{"model": []}', "Missing Model entry in manifest file."),
    ("no Model entry at all", '{"model": null}', "Missing Model entry in manifest file."),
    (
        "Runtime is not defined",
        '{"model": {"modelName": "x", "handler": "h"}, "runtime": "perl"}',
        "Runtime is not defined or invalid.",
    ),
    ("name of another kind", '{"model": {"modelName": [7]}}', "Failed to parse signature.json. "),
]


@pytest.mark.parametrize(
    ("name", "text", "message"), [pytest.param(*row, id=f"5.2 {row[0]}") for row in MANIFESTS]
)
def test_register_bad_manifests(server: Server, name: str, text: str, message: str) -> None:
    folder = server.store / name
    (folder / "MAR-INF").mkdir(parents=True)
    (folder / "MAR-INF" / "MANIFEST.json").write_text(text)
    (folder / "handler.py").touch()
    answer = server.register(name)
    assert (answer.status, answer.json["type"]) == (400, "InvalidModelException")
    assert answer.json["message"].startswith(message)


def test_register_names_and_versions_that_nobody_gave(server: Server) -> None:
    """[5.2 manifest checks] A version is 1.0 then, a name that of the file; `.mar` has none."""
    for name in (".mar", "my model.mar"):
        with zipfile.ZipFile(server.store / name, "w") as file:
            file.writestr("MAR-INF/MANIFEST.json", '{"model": {"handler": "handler.py"}}')
            file.writestr("handler.py", "def handle(data, context):\n    return data\n")
    answer = server.register(".mar")
    assert answer.body == error(400, "InvalidModelException", "Model name is not defined.")
    assert server.register("my model.mar").status == 200
    body = described(server, "my_model")
    assert (body["modelVersion"], body["runtime"]) == ("1.0", "python")


def test_register_unusable_files(server: Server) -> None:
    """[5.2 unzip/other IO failure]"""
    whole = (server.store / "echo.mar").read_bytes()
    (server.store / "half.mar").write_bytes(whole[: len(whole) // 2])
    answer = server.register("half.mar")
    assert (answer.status, answer.json["type"]) == (500, "InternalServerException")
    assert answer.json["message"].startswith("Failed to save model: half.mar\n")


def test_register_the_same_version_again(server: Server) -> None:
    """[5.2 same name+version registered] Another version is fine and not the default."""
    assert server.register("echo.mar").status == 200
    answer = server.register("echo.mar")
    text = "Model version 1.0 is already registered for model echo"
    assert (answer.status, answer.body) == (409, error(409, "ConflictStatusException", text))
    assert server.register("echo-2.mar", model_name="echo").status == 200
    assert described(server, "echo")["modelVersion"] == "1.0"


def test_register_the_same_url_again(server: Server, web: Web) -> None:
    """[5.2 re-registering the same URL] is 500, because its file is in the store."""
    web.files["/open/again.mar"] = (server.store / "echo.mar").read_bytes()
    url = web.url("/open/again.mar")
    assert server.register(url, model_name="again").status == 200
    answer = server.register(url, model_name="again")
    text = "Model file already exists again.mar"
    assert (answer.status, answer.body) == (500, error(500, "InternalServerException", text))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("{", id="5.2 malformed JSON body"),
        pytest.param("[]", id="5.2 no object"),
        pytest.param("[1", id="5.2 open bracket"),
    ],
)
def test_register_malformed_json(server: Server, body: str) -> None:
    answer = post(server, body)
    assert (answer.status, answer.json["type"]) == (500, "JsonSyntaxException")


@pytest.mark.parametrize("body", [pytest.param("", id="5.2 empty JSON body"), "{}", "  "])
def test_register_empty_json(server: Server, body: str) -> None:
    """Mended: TorchServe answered 500 NullPointerException."""
    answer = post(server, body)
    assert answer.body == error(400, "BadRequestException", "Parameter url is required.")


def test_register_pip_failure(server: Server) -> None:
    """[5.2 pip failure] Mended: the model is not registered."""
    needs = server.folder / "requirements.txt"
    needs.write_text("./a-file-that-does-not-exist.whl\n")
    archive(server.store, "needy", MARS / "echo.py", "--requirements-file", str(needs))
    for _ in range(2):
        answer = server.register("needy.mar")
        assert (answer.status, answer.json["type"]) == (400, "ModelException")
        first = answer.json["message"].partition("\n")[0]
        assert first == "Custom pip package installation failed for model needy"
    assert server.manage("GET", "/models/needy").status == 404


async def test_register_venv_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """[5.2 venv failure]"""
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)
    monkeypatch.setattr("sys.executable", "/no/python")
    async with Site(tmp_path) as site:
        with pytest.raises(ModelSetupFailed) as caught:
            await site.register(site.model(yaml="useVenv: true\n"))
    first = caught.value.message.partition("\n")[0]
    assert first == "Virtual environment creation failed for model m"


async def test_register_without_a_store(tmp_path: Path) -> None:
    """[5.2 no model store] comes before the url is looked at; the command always has one."""
    async with Site(tmp_path) as site:
        site.management._registrar._store._folder = None
        with pytest.raises(ModelNotFound, match=r"^Model store has not been configured\.$"):
            await site.register("../")
