"""config.properties by the tables 2.2 and 2.3: each key is shown to work, or to say why it doesn't.

Listeners, tokens and metrics are in test_settings_edges. Not here, but with what they belong to:
snapshots (2.1 step 3, model_snapshot) and plugins_path.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference import test_settings_edges
from tests.compat.reference.rows import row, rows
from tests.compat.reference.settings_rig import Load, load, read
from tests.core_rig import Rig, Site, until
from tests.fakes import FakeWorker, hold, make_request, run_virtual
from tests.frontend.config_samples import SAMPLES
from tests.frontend.test_core_store import mar
from ts_frontend.config import Config, ConfigError
from ts_frontend.core.devices import Devices
from ts_frontend.core.job import Answer
from ts_frontend.core.nvml import Gpu
from ts_frontend.core.python_env import PythonNeeds
from ts_frontend.errors import (
    Internal,
    InvalidModel,
    ModelNotFound,
    RequestTimeout,
    ServiceUnavailable,
)
from ts_frontend.keys import INTERNAL, key_table

__all__ = ["load"]  # a fixture

PAGE = Path(__file__).parents[3] / "docs" / "configuration.md"
# Tested with what they belong to.
ELSEWHERE = {"model_snapshot", "plugins_path"}


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", list)


def send(rig: Rig, body: bytes = b"x") -> asyncio.Task[Answer]:
    return asyncio.create_task(rig.inference.predict("m", None, make_request(body)))


# Models


@row("2.2 model_store", "2.2 load_models")
async def test_what_is_loaded_from_where(load: Load, tmp_path: Path) -> None:
    config = load("load_models=m-1.0")
    assert config.model_store == tmp_path / "store"
    async with Site(tmp_path) as site:
        site.model()
        assert config.load_models is not None
        await site.management.startup.load(config.load_models)
        assert [model.name for model in site.catalog.defaults()] == ["m"]


@row("2.2 allowed_urls")
async def test_allowed_urls(tmp_path: Path) -> None:
    source = Site(tmp_path).model()
    async with Site(tmp_path, **read(allowed_urls="https?://a/.*, FILE://.*/ok/.*")) as site:
        for url in ("http://b/m.mar", Path(source).as_uri()):
            with pytest.raises(ModelNotFound) as caught:
                await site.register(url)
            text = f"Given URL {url} does not match any allowed URL(s)"
            assert caught.value.message == text


@row("2.2 use_env_allowed_urls")
def test_use_env_allowed_urls(load: Load) -> None:
    variable = {"TS_ALLOWED_URLS": "https://a/.*"}
    lines = ("enable_envvars_config=true", "use_env_allowed_urls=true")
    assert load(*lines, **variable).allowed_urls == ("https://a/.*",)
    for line in lines:
        without = load(line, **variable)
        assert without.allowed_urls == Config().allowed_urls
        assert "TS_ALLOWED_URLS ignored" in without.warnings[0]


@row("2.2 archive_max_bytes")
async def test_archive_max_bytes(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(archive_max_bytes="10")) as site:
        mar(site.folder)
        with pytest.raises(Internal, match="unpacks to more than 10 bytes"):
            await site.register("m.mar")


@row("2.2 install_py_dep_per_model")
async def test_install_py_dep_per_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[PythonNeeds] = []

    async def prepare(needs: PythonNeeds, *_: object) -> None:
        asked.append(needs)

    monkeypatch.setattr("ts_frontend.core.registration.prepare", prepare)
    for number, text in enumerate(("true", "false")):
        async with Site(tmp_path / text, **read(install_py_dep_per_model=text)) as site:
            await site.register(site.model(requirementsFile="requirements.txt"))
        assert (asked[number].requirements is not None) == (text == "true")


@row("2.2 default_service_handler")
async def test_default_service_handler(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(default_service_handler="image_classifier")) as site:
        await site.register(site.model(handler=""))
        await site.register(site.model("n", handler="mine.py"))
        assert [spec.handler for spec in site.backend.specs] == ["image_classifier", "mine.py"]
    async with Site(tmp_path) as site:
        with pytest.raises(InvalidModel, match="default_service_handler must name one"):
            await site.register("m-1.0")


@row("2.2 service_envelope")
async def test_service_envelope(tmp_path: Path) -> None:
    for text, envelope in (("kserve", "kserve"), ("", None)):
        async with Site(tmp_path / f"of{text}", **read(service_envelope=text)) as site:
            # What the manifest says is overwritten, with nothing as well.
            await site.register(site.model(envelope="json"))
            assert site.worker.spec.envelope == envelope


# Batches and queues


@row("2.2 batch_size", "2.2 max_batch_delay", "2.2 batch_policy")
async def test_batch_defaults(tmp_path: Path) -> None:
    texts = {"batch_size": "8", "max_batch_delay": "5", "batch_policy": "delay"}
    async with Site(tmp_path, **read(**texts)) as site:
        await site.register(site.model(), 0)
        await site.register(site.model("n", yaml="batchSize: 2\nmaxBatchDelay: 3\n"), 0)
        (m,), (n,) = [await site.management.describe(name, None) for name in "mn"]
        assert (m["batchSize"], m["maxBatchDelay"]) == (8, 5)
        assert (n["batchSize"], n["maxBatchDelay"]) == (2, 3)
        assert site.catalog.find("m").settings.batch_policy == "delay"


@row("2.2 job_queue_size")
async def test_job_queue_size(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(job_queue_size="2")) as site:
        site.backend.behaviour = hold
        await site.register(site.model())
        first = send(site)
        await site.worker.received()
        waiting = [send(site), send(site)]
        await until(lambda: len(site.catalog.find("m").queue) == 2)
        with pytest.raises(ServiceUnavailable):
            await send(site)
        for task in (first, *waiting):
            await site.worker.received(len(site.worker.batches) or 1)
            await until(lambda: bool(site.worker.current))
            site.worker.finish()
            await task


@row("2.2 max_response_size")
async def test_max_response_size(tmp_path: Path) -> None:
    for settings in ({}, read(max_response_size="4")):
        async with Site(tmp_path / f"{len(settings)}", **settings) as site:
            await site.register(site.model())
            assert (await send(site, b"four")).body == b"four"
            if settings:
                with pytest.raises(Internal, match="max_response_size=4") as caught:
                    await send(site, b"five!")
                assert caught.value.status == 500
            else:
                assert (await send(site, b"x" * 7_000_000)).body == b"x" * 7_000_000
            assert len(site.backend.workers) == 1


# Workers


@row("2.2 default_workers_per_model")
async def test_default_workers_per_model(tmp_path: Path) -> None:
    for text, at_startup, later in (("2", 2, 2), ("0", 3, 0)):  # the site has three cores
        async with Site(tmp_path / text, **read(default_workers_per_model=text)) as site:
            site.model("early")
            await site.management.startup.load("early-1.0")
            await site.register(site.model("late"), None)
            counts = [len(site.catalog.find(name).slots) for name in ("early", "late")]
            assert counts == [at_startup, later]


@row("2.2 default_response_timeout", "2.2 default_startup_timeout")
def test_default_timeouts(table_row: str) -> None:
    key = table_row.split()[1]

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            setting = {key.removeprefix("default_"): read(**{key: "7"})[key]}
            if key == "default_startup_timeout":
                gate = asyncio.Event()
                rig.backend.load = lambda _: gate.wait()
                with pytest.raises(Internal, match=r"did not load within startupTimeout=7 s"):
                    await rig.serve(**setting)
            else:
                await rig.serve(**setting)
                with pytest.raises(Internal, match=r"^Worker died\.$"):
                    await send(rig)
            assert asyncio.get_running_loop().time() == pytest.approx(7)

    run_virtual(main)


@row("2.2 default_response_timeout", "2.2 default_startup_timeout")
async def test_default_timeouts_are_described(tmp_path: Path, table_row: str) -> None:
    key = table_row.split()[1]
    async with Site(tmp_path, **read(**{key: "7"})) as site:
        await site.register(site.model(yaml="batchSize: 2\n"), 0)
        (body,) = await site.management.describe("m", None)
    shown = {"default_response_timeout": "responseTimeout"}.get(key, "startupTimeout")
    assert body[shown] == 7


@row("2.2 unregister_model_timeout")
def test_unregister_model_timeout() -> None:
    class Deaf(FakeWorker):
        async def stop(self, grace: float) -> None:
            try:
                await asyncio.sleep(60)
            finally:
                await super().stop(grace)

    async def main() -> None:
        config = Config(**read(unregister_model_timeout="7"))
        async with Rig(config, behaviour=hold) as rig:
            model = await rig.serve()
            rig.worker.__class__ = Deaf
            running = send(rig)
            await rig.worker.received()
            with pytest.raises(RequestTimeout) as caught:
                await rig.supervisor.stop(model, lambda: ModelNotFound("gone"))
            assert caught.value.status == 408
            # Five more, for processes to end once their batch had its time.
            assert asyncio.get_running_loop().time() == pytest.approx(7 + 5)
            with pytest.raises(Internal):
                await running

    run_virtual(main)


@row("2.2 number_of_gpu")
def test_number_of_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(3)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)
    for text, count in (("2", 2), ("9", 3), ("0", 0)):
        assert Devices(read(number_of_gpu=text)["number_of_gpu"], {}).count == count


@row("2.2 initial_worker_port")
async def test_initial_worker_port(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(initial_worker_port="9500")) as site:
        for name in ("m", "n"):
            await site.register(site.model(name), 2)
        ids = [body["id"] for m in "mn" for body in await workers(site, m)]
        assert ids == ["9500", "9501", "9502", "9503"]


@row("2.2 initial_distribution_port")
async def test_initial_distribution_port(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(initial_distribution_port="29700")) as site:
        for name in ("m", "n"):
            yaml = "parallelType: tp\nparallelLevel: 2\n"
            await site.register(site.model(name, yaml=yaml), 2)
        ids = [body["id"] for m in "mn" for body in await workers(site, m)]
        assert ids == ["29700", "29702", "29704", "29706"]
        assert [spec.ranks.first_port for spec in site.backend.specs if spec.ranks] == [
            *(29700, 29702, 29704, 29706)
        ]


async def workers(site: Site, model: str) -> list[dict[str, Any]]:
    (body,) = await site.management.describe(model, None)
    return list(body["workers"])


@row(
    "2.2 blacklist_env_vars",
    "2.2 ipex_enable",
    "2.2 ipex_gpu_enable",
    "2.2 decode_input_request",
    "2.2 limit_max_image_pixels",
)
async def test_what_workers_are_told(tmp_path: Path) -> None:
    texts = dict.fromkeys(("decode_input_request", "limit_max_image_pixels"), "false")
    texts |= dict.fromkeys(("ipex_enable", "ipex_gpu_enable"), "true")
    environ = {"PATH": "/bin", "SECRET_KEY": "x", "SECRE": "y"}
    settings = read(blacklist_env_vars="SECRET.*", **texts)
    async with Site(tmp_path, environ, **settings) as site:
        await site.register(site.model())
        spec = site.worker.spec
    assert spec.env == {
        "PATH": "/bin",
        "SECRE": "y",
        "TS_DECODE_INPUT_REQUEST": "false",
        "TS_IPEX_ENABLE": "true",
        "TS_IPEX_GPU_ENABLE": "true",
    }
    assert not spec.decode_input_request
    assert not spec.limit_max_image_pixels


@row("2.2 blacklist_env_vars")
def test_a_bad_blacklist_stops_the_start(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"line 2: blacklist_env_vars=\(: expected a regular"):
        load("blacklist_env_vars=(")


@row("2.2 debug")
async def test_debug(tmp_path: Path) -> None:
    async with Site(tmp_path, **read(debug="true", default_workers_per_model="4")) as site:
        site.model()
        await site.management.startup.load("m-1.0")
        await until(lambda: len(site.backend.alive) == 1)
        settings = site.catalog.find("m").settings
        assert settings.response_timeout == settings.startup_timeout == 2**31 - 1
        assert len(site.catalog.find("m").slots) == 1


# Where settings come from


@row("2.2 enable_envvars_config")
def test_enable_envvars_config(load: Load) -> None:
    assert load(TS_JOB_QUEUE_SIZE="7").job_queue_size == 100
    assert load("enable_envvars_config=true", TS_JOB_QUEUE_SIZE="7").job_queue_size == 7
    # Only the file can say so.
    environ = {"TS_ENABLE_ENVVARS_CONFIG": "true", "TS_JOB_QUEUE_SIZE": "7"}
    assert load(**environ).job_queue_size == 100


@row(*(f"2.2 {name}" for name in INTERNAL))
def test_what_torchserve_wrote_for_itself(load: Load, table_row: str) -> None:
    warnings = load(f"{table_row.split()[1]}=x").warnings
    assert not any("unknown key" in warning for warning in warnings)


@row(
    *(
        f"2.2 {name}"
        for name in (
            "grpc_inference_address",
            "grpc_management_address",
            "grpc_inference_port",
            "grpc_management_port",
            "grpc_inference_max_connection_age_ms",
            "grpc_management_max_connection_age_ms",
            "grpc_inference_max_connection_age_grace_ms",
            "grpc_management_max_connection_age_grace_ms",
            "enable_grpc_ssl",
            "ts_open_inference_protocol",
            "workflow_store",
            "ts_header_key_sequence_id",
            "ts_header_key_sequence_start",
            "ts_header_key_sequence_end",
            "cpu_launcher_enable",
            "cpu_launcher_args",
            "cpp_log_config",
            "model_server_home",
            "number_of_netty_threads",
            "netty_client_threads",
            "prefer_direct_buffer",
            "use_native_io",
            "io_ratio",
            "vmargs",
            "async_logging",
        )
    )
)
def test_a_key_without_effect_says_why(load: Load, table_row: str) -> None:
    key = key_table()[table_row.split()[1]]
    (warning,) = load(f"{key.name}={SAMPLES[key.name][0]}").warnings
    assert warning.endswith(f"line 2: {key.name}: accepted, no effect: {key.no_effect}")
    assert f"Accepted, no effect: {key.no_effect}." in PAGE.read_text()
    assert key.no_effect


# 2.3: models={...}


@row("2.2 models", "2.3 minWorkers", "2.3 maxWorkers")
async def test_models_workers_count_at_startup_only(tmp_path: Path) -> None:
    table = '{"m": {"1.0": {"minWorkers": 2, "maxWorkers": 3}}}'
    async with Site(tmp_path, **read(models=table)) as site:
        site.model()
        await site.management.startup.load("m-1.0")
        model = site.catalog.find("m")
        assert (len(model.slots), model.min_workers, model.max_workers) == (2, 2, 3)
        await site.management.unregister("m", None)
        await site.register("m-1.0", None)
        assert site.catalog.find("m").min_workers == 0


@row("2.3 batchSize", "2.3 maxBatchDelay", "2.3 responseTimeout", "2.3 startupTimeout")
async def test_models_numbers(load: Load, tmp_path: Path, table_row: str) -> None:
    key = table_row.split()[1]
    default = {"batchSize": 1, "maxBatchDelay": 100}.get(key, 120)
    texts = {"good": "7", "zero": "0", "negative": "-3", "text": '"many"'}
    for name, text in texts.items():
        table = json.dumps({"m": {"1.0": {key: json.loads(text)}}})
        config = load(f"models={table}")
        assert len(config.warnings) == (name != "good")
        async with Site(tmp_path / name, models=config.models) as site:
            await site.register(site.model(), 0)
            (body,) = await site.management.describe("m", None)
        assert body[key] == (7 if name == "good" else default)


@row("2.3 runtimeType")
async def test_models_runtime(tmp_path: Path) -> None:
    table = '{"m": {"1.0": {"runtimeType": "python3"}}}'
    async with Site(tmp_path, **read(models=table)) as site:
        await site.register(site.model(runtime="python"), 0)
        assert site.catalog.find("m").runtime == "python3"


@row("2.3 defaultVersion", "2.3 marName")
async def test_models_of_a_snapshot_are_known_and_load_nothing(load: Load) -> None:
    config = load('models={"m": {"1.0": {"defaultVersion": true, "marName": "m.mar"}}}')
    assert config.warnings == ()
    assert config.load_models is None


@row("2.3 lenient JSON")
def test_models_may_be_nearly_json(load: Load) -> None:
    config = load("models={'m': {'1.0': {batchSize: 4}}}")
    assert config.models == {"m": {"1.0": {"batchSize": 4}}}


@row("2.3 malformed JSON")
def test_malformed_models_stop_the_start(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"line 2: models=.*: expected JSON"):
        load("models={")


def test_each_key_has_its_row() -> None:
    lines = PAGE.read_text().splitlines()
    ours = {line.split("`")[1] for line in lines if "Not in TorchServe." in line}
    tested = rows(sys.modules[__name__], "2.2") | rows(test_settings_edges, "2.2")
    assert tested - ours == {*key_table(), *INTERNAL} - ours - ELSEWHERE
