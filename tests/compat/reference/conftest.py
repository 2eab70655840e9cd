"""Real servers that the tests of the tables share: the installed command, real archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from tests.compat.reference.web import Web, web_server
from tests.compat.reference.wire import Reply, ask
from tests.e2e.conftest import MARS, Server, archive, until

Ask = Callable[..., Reply]

# By name: the handler, and the yaml it is packed with.
MODELS = {
    "mirror": ("mirror.py", ""),
    "results": ("results.py", ""),
    "raises": ("raises.py", ""),
    "stream": ("stream.py", ""),
    "crash": ("crash.py", "minWorkers: 4\n"),
    "late": ("slow.py", "responseTimeout: 1\n"),
    "measures": ("measures.py", ""),
}


# Archives of the server for operators, by name: the text of the handler. "echo-2" is a version 2.0.
OPERATED = {
    "echo": (MARS / "echo.py").read_text(),
    "echo-2": (MARS / "echo.py").read_text(),
    "slow": (MARS / "slow.py").read_text(),
    "crash": (MARS / "crash.py").read_text(),
    "syntax": (MARS / "broken" / "bad_syntax.py").read_text(),
    "memory": "def handle(data, context):\n    raise MemoryError('asked for')\n",
    "about": """
def handle(data, context):
    if data is None:
        return None
    if context.get_request_header(0, "describe") != "True":
        return ["prediction"]
    return [{"object": {"b": 1, "a": [2]}, "list": [1], "nothing": ""}[context.model_name]]
""",
}


def pack(server: Server, names: list[str]) -> None:
    """Make archives of `MODELS` in a server's store, several at a time."""

    def one(name: str) -> None:
        handler, yaml = MODELS[name]
        flags: tuple[str, ...] = ()
        if yaml:
            config = server.folder / f"{name}.yaml"
            config.write_text(yaml)
            flags = ("--config-file", str(config))
        archive(server.store, name, MARS / handler, *flags)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, names))


def registered(server: Server, url: str, workers: int, **query: object) -> None:
    answer = server.register(url, initial_workers=workers, **query)
    assert answer.status == 200, answer.text


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the usual three ports without tokens: every model of `MODELS`, ``mirror`` in two
    versions, and ``idle`` without a worker."""
    server = Server(tmp_path_factory.mktemp("plain"))
    server.prepare(
        disable_token_authorization="true",
        enable_model_api="true",
        default_workers_per_model=1,
        max_request_size=200_000,
        model_metrics_auto_detect="true",
    )
    pack(server, list(MODELS))
    archive(server.store, "mirror-2", MARS / "mirror.py", version="2.0")
    archive(server.store, "idle", MARS / "echo.py")
    server.start("--models", *(f"{name}.mar" for name in MODELS))
    try:
        registered(server, "mirror-2.mar", 1, model_name="mirror")
        registered(server, "idle.mar", 0)
        until(lambda: all(server.ready(name) for name in MODELS))
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture(scope="session")
def measured(plain: Server) -> Server:
    """The plain server, whose model ``measures`` was asked once."""
    assert plain.predict("measures").text == "measured"
    return plain


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with inference and management on one port, tokens, CORS and one startup model, whose
    inputs stay as they came."""
    server = Server(tmp_path_factory.mktemp("shared"))
    server.ports[1] = server.ports[0]
    server.prepare(
        enable_model_api="true",
        default_workers_per_model=1,
        cors_allowed_origin="*",
        cors_allowed_methods="GET, POST",
        cors_allowed_headers="X-Mine",
        decode_input_request="false",
    )
    pack(server, ["mirror", "results"])
    server.start("--models", "mirror.mar")
    try:
        until(lambda: server.ready("mirror"))
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def inference(plain: Server) -> Ask:
    """Asks the inference port."""
    return partial(ask, plain.ports[0])


@pytest.fixture
def management(plain: Server) -> Ask:
    """Asks the management port."""
    return partial(ask, plain.ports[1])


@pytest.fixture
def metrics(plain: Server) -> Ask:
    """Asks the metrics port."""
    return partial(ask, plain.ports[2])


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server of archives; see `Web`."""
    with web_server() as web:
        yield web


@pytest.fixture(scope="session")
def _operated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("operated"))
    server.prepare(
        enable_model_api="true",
        install_py_dep_per_model="true",
        allowed_urls="http://127.0.0.1:[0-9]+/open/.*,file:///.*/open/.*",
    )

    def one(name: str) -> None:
        handler = server.folder / f"{name}_handler.py"
        handler.write_text(OPERATED[name])
        archive(server.store, name, handler, version="2.0" if name.endswith("-2") else "1.0")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, OPERATED))
    server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def server(_operated: Server) -> Iterator[Server]:
    """A server with tokens, the model API and archives of `OPERATED`, without a model before and
    behind each test. It may download from below ``/open/`` only."""
    yield _operated
    for model in _operated.manage("GET", "/models").json["models"]:
        path = f"/models/{model['modelName']}"
        default = _operated.manage("GET", path).json[0]["modelVersion"]
        for version in _operated.manage("GET", f"{path}/all").json:
            if version["modelVersion"] != default:
                _operated.manage("DELETE", f"{path}/{version['modelVersion']}")
        assert _operated.manage("DELETE", path).status == 200


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    """Clients that ask at the same time."""
    with ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture(autouse=True)
def table_row(request: pytest.FixtureRequest) -> str:
    """The row that `rows.row` names a test for."""
    return str(getattr(request, "param", ""))
