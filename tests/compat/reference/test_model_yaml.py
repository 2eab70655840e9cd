"""model-config.yaml by the tables 3.1 and 3.2.

The keys of 3.1 that are not followed yet are shown to be accepted with a warning.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.rows import row, rows
from tests.compat.reference.settings_rig import read
from tests.core_rig import Rig, Site, until
from tests.fakes import hold, make_request, run_virtual
from ts_frontend.core import model_yaml
from ts_frontend.core.job import Answer
from ts_frontend.core.nvml import Gpu
from ts_frontend.core.python_env import PythonNeeds
from ts_frontend.errors import RequestTimeout
from ts_frontend.http.arguments import Arguments
from ts_frontend.http.management import registration

Register = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """The GPUs of the machine: none unless a test adds some."""
    found: list[Gpu] = []
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: found)
    return found


@pytest.fixture
def describe(tmp_path: Path, gpus: list[Gpu], caplog: pytest.LogCaptureFixture) -> Register:
    """Register a model with a yaml and describe it; ``warned`` is what the log says of the yaml."""
    numbers = iter(range(1000))

    async def run(yaml: str, workers: int | None = 0, **settings: Any) -> dict[str, Any]:
        caplog.clear()
        call = settings.pop("call", {})
        async with Site(tmp_path / str(next(numbers)), **read(**settings)) as site:
            await site.register(site.model(yaml=yaml), workers, **call)
            (body,) = await site.management.describe("m", None)
            body["devices"] = [worker.device for worker in site.backend.workers]
        lines = [record.getMessage() for record in caplog.records]
        body["warned"] = [line for line in lines if line.startswith("model-config.yaml: ")]
        return body

    return run


def send(rig: Rig) -> asyncio.Task[Answer]:
    return asyncio.create_task(rig.inference.predict("m", None, make_request()))


# 3.1: keys that are followed


@row("3.1 minWorkers")
async def test_min_workers(describe: Register) -> None:
    for text, least in (("2", 2), ("0", 1), ("-3", 1)):
        body = await describe(f"minWorkers: {text}\nmaxWorkers: 4\n")
        assert (body["minWorkers"], body["maxWorkers"], len(body["workers"])) == (least, 4, least)


@row("3.1 maxWorkers")
async def test_max_workers(describe: Register) -> None:
    for text, warning in (
        ("1", "minWorkers 2 and maxWorkers 1 are ignored"),
        ("-1", "maxWorkers must be 0 or more, not -1: the default is used"),
        ("many", "maxWorkers must be a whole number, not 'many': the default is used"),
    ):
        body = await describe(f"minWorkers: 2\nmaxWorkers: {text}\n", 1)
        assert warning in body["warned"][0]
        assert body["maxWorkers"] == (1 if text == "1" else 2)


@row("3.1 batchSize")
async def test_batch_size(describe: Register) -> None:
    for text, size, warned in (("8", 8, 0), ("0", 1, 0), ("-2", 1, 0), ("eight", 3, 1)):
        body = await describe(f"batchSize: {text}\n", batch_size="3")
        assert (body["batchSize"], len(body["warned"])) == (size, warned)


@row("3.1 maxBatchDelay")
async def test_max_batch_delay(describe: Register) -> None:
    for text, delay, warned in (("8", 8, 0), ("0", 100, 0), ("-2", 100, 1), ("1.5", 100, 1)):
        body = await describe(f"maxBatchDelay: {text}\n")
        assert (body["maxBatchDelay"], len(body["warned"])) == (delay, warned)


@row("3.1 responseTimeout", "3.1 startupTimeout")
async def test_timeouts(describe: Register, table_row: str) -> None:
    key = table_row.split()[1]
    for text, seconds, warned in (("8", 8, 0), ("0", 120, 1), ("-2", 120, 1), ("true", 120, 1)):
        body = await describe(f"{key}: {text}\n")
        assert (body[key], len(body["warned"])) == (seconds, warned)


@row("3.1 deviceType")
async def test_device_type(describe: Register, gpus: list[Gpu]) -> None:
    assert (await describe("deviceType: GPU\n", 1))["deviceType"] == "cpu"
    gpus += [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(2)]
    for text, kind, devices in (("gpu", "gpu", [0]), ("CPU", "cpu", [None])):
        body = await describe(f"deviceType: {text}\n", 1)
        assert (body["deviceType"], body["devices"], body["warned"]) == (kind, devices, [])
    body = await describe("deviceType: neuron\n", 1)
    assert body["deviceType"] == "gpu"
    assert "deviceType must be cpu, gpu or mps, not 'neuron'" in body["warned"][0]


@row("3.1 deviceIds")
async def test_device_ids(
    describe: Register, gpus: list[Gpu], caplog: pytest.LogCaptureFixture
) -> None:
    gpus += [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(4)]
    body = await describe("deviceIds: [3, 1]\n", 3)
    assert (body["deviceIds"], body["devices"]) == ([3, 1], [3, 1, 3])
    for text in ("[0, one]", "[0, 4]", "[-1]", "0"):
        body = await describe(f"deviceIds: {text}\n", 1)
        assert "deviceIds" not in body
        assert "deviceIds" in caplog.text


@row("3.1 maxRetryTimeoutInSec")
async def test_max_retry_timeout(describe: Register) -> None:
    for yaml, seconds in (
        ("maxRetryTimeoutInSec: 5", 5),
        ("maxRetryTimeoutInSec: -5", 0),
        ("", 300),
    ):
        assert (await describe(yaml))["maxRetryTimeoutInSec"] == seconds


@row("3.1 maxRetryTimeoutInSec")
def test_the_retry_window_ends_recovery() -> None:
    async def main() -> None:
        async with Rig() as rig:
            model = await rig.serve(max_retry_timeout=0)
            rig.worker.die(1, None)
            await until(lambda: model.slots[0].state.name == "DEAD")

    run_virtual(main)


@row("3.1 clientTimeoutInMills")
async def test_client_timeout(describe: Register) -> None:
    assert (await describe("clientTimeoutInMills: 50\n"))["clientTimeoutInMills"] == 50
    for yaml in ("", "clientTimeoutInMills: -1\n"):
        assert (await describe(yaml))["clientTimeoutInMills"] == 0


@row("3.1 clientTimeoutInMills")
def test_a_waiting_client_times_out() -> None:
    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=50)
            running = send(rig)
            await rig.worker.received()
            with pytest.raises(RequestTimeout):
                await send(rig)
            assert asyncio.get_running_loop().time() == pytest.approx(0.05)
            running.cancel()

    run_virtual(main)


@row("3.1 jobQueueSize")
async def test_job_queue_size(describe: Register) -> None:
    for text, size in (("7", 7), ("0", 5), ("-1", 5)):
        body = await describe(f"jobQueueSize: {text}\n", job_queue_size="5")
        assert body["jobQueueStatus"]["remainingCapacity"] == size


@row("3.1 useVenv")
async def test_use_venv(
    describe: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[PythonNeeds] = []

    async def prepare(needs: PythonNeeds, *_: object) -> None:
        asked.append(needs)

    monkeypatch.setattr("ts_frontend.core.registration.prepare", prepare)
    for yaml, call, wanted in (
        ("useVenv: true\n", {}, True),
        ("useVenv: true\n", {"runtime": "python3"}, False),
        ("useVenv: yes please\n", {}, False),
        ("", {}, False),
    ):
        body = await describe(yaml, call=call)
        assert asked[-1].use_venv == wanted
        assert body["useVenv"] == (yaml == "useVenv: true\n")


@row("3.1 weightsOnly")
async def test_weights_only(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="weightsOnly: false\n"), 1)
        assert site.worker.spec.env["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


@row("3.1 pythonExecutable")
async def test_python_executable(describe: Register, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not in TorchServe."""
    asked: list[PythonNeeds] = []

    async def prepare(needs: PythonNeeds, *_: object) -> None:
        asked.append(needs)

    monkeypatch.setattr("ts_frontend.core.registration.prepare", prepare)
    for text, wanted, warnings in (("./python", "./python", 0), ("3.9", None, 1)):
        body = await describe(f"pythonExecutable: {text}\n")
        assert asked[-1].executable == wanted
        assert len(body["warned"]) == warnings


@row("3.1 parallelType", "3.1 parallelLevel")
async def test_parallel_type_and_level(describe: Register) -> None:
    for kind in ("pp", "tp", "pptp", "custom"):
        body = await describe(f"parallelType: {kind}\nparallelLevel: 2\n", 1)
        assert (body["parallelType"], body["parallelLevel"]) == (kind, 2)
        assert body["workers"][0]["id"] == "29500"
        assert not body["warned"]
    for yaml in (
        "parallelLevel: 2\n",
        "parallelType: tp\n",
        "parallelType: tp\nparallelLevel: -1\n",
    ):
        body = await describe(yaml)
        assert (body["parallelType"], body["parallelLevel"]) == ("", 0)
        assert body["warned"]


@row("3.1 torchrun")
async def test_torchrun(describe: Register) -> None:
    yaml = "parallelType: tp\nparallelLevel: 8\n"
    for section, level in (("{nproc-per-node: 2, OMP_NUMBER_THREADS: 3}", 2), ("{}", 1)):
        body = await describe(f"{yaml}torchrun: {section}\n", 1)
        assert body["parallelLevel"] == level
        assert len(body["warned"]) == 1  # of the other level
    body = await describe(f"{yaml}torchrun:\n  nproc-per-node: 8\n  max-restarts: 1\n")
    (warning,) = body["warned"]
    assert warning.endswith("unknown parameters are ignored: max-restarts")


@row("3.1 prefetch")
async def test_prefetch(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="prefetch: 2\n"), 0)
        assert site.catalog.find("m").settings.prefetch == 2


@row("3.1 maxLatencyMs")
async def test_max_latency(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="maxLatencyMs: 50\n"), 0)
        assert site.catalog.find("m").settings.max_latency == 50


@row("3.1 pt2")
async def test_a_model_that_is_compiled_keeps_what_was_made(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="pt2: {compile: {enable: true}}\n"), 0)
        env = site.catalog.find("m").launch.env
        assert env["TORCHINDUCTOR_CACHE_DIR"]


@row("3.1 batchPolicy")
async def test_batch_policy(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="batchPolicy: delay\n"), 0)
        assert site.catalog.find("m").settings.batch_policy == "delay"


# 3.1: keys that are accepted only


@row(
    "3.1 useJobTicket",
    "3.1 continuousBatching",
    "3.1 sequenceBatching",
    "3.1 sequenceMaxIdleMSec",
    "3.1 sequenceTimeoutMSec",
    "3.1 maxSequenceJobQueueSize",
    "3.1 maxNumSequence",
    "3.1 asyncCommunication",
)
async def test_a_key_that_is_not_followed_says_so(describe: Register, table_row: str) -> None:
    key = table_row.split()[1]
    body = await describe(f"{key}: 1\n", 1)
    assert body["warned"] == [f"model-config.yaml: {key} is accepted, but not supported yet"]


# 3.1: the file


@row("3.1 case counts and unknown keys pass")
async def test_other_keys_are_the_handlers(describe: Register) -> None:
    body = await describe("batchsize: 8\nhandler: {model_path: x}\n1: one\n")
    # TorchServe says nothing of either; the server names what was meant, and takes no notice.
    near = "model-config.yaml: the server has no key batchsize, did you mean batchSize?"
    assert (body["batchSize"], body["warned"]) == (1, [near])


@row("3.1 runtimeType is no key")
async def test_the_runtime_is_not_in_the_yaml(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="runtimeType: python3\n"), 0)
        assert site.catalog.find("m").runtime == "python"


@row("3.1 only with configFile")
async def test_a_yaml_that_the_manifest_does_not_name_is_not_read(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        url = site.model()
        (Path(url) / "model-config.yaml").write_text("batchSize: 8\n")
        await site.register(url, 0)
        assert site.catalog.find("m").settings.batch_size == 1


# 3.2: precedence


@row("3.2 batchSize", "3.2 maxBatchDelay")
async def test_batching_goes_by_call_yaml_models_default(
    describe: Register, table_row: str
) -> None:
    key = table_row.split()[1]
    name, unset, built_in = {
        "batchSize": ("batch_size", -1, 1),
        "maxBatchDelay": ("max_batch_delay", -100, 100),
    }[key]
    table = {"models": json.dumps({"m": {"1.0": {key: 4}}})}
    yaml = f"{key}: 3\n"
    assert (await describe(yaml, call={name: 2}, **table))[key] == 2
    assert (await describe(yaml, **table))[key] == 3
    assert (await describe("", **table))[key] == 4
    assert (await describe(""))[key] == built_in
    sent = registration(Arguments({"url": "m.mar", name: str(unset)}))
    assert getattr(sent, name) is None


@row("3.2 workers at register")
async def test_workers_at_register(describe: Register) -> None:
    pair = "minWorkers: 2\nmaxWorkers: 3\n"
    assert (await describe(pair, 1))["minWorkers"] == 2
    assert (await describe("", 1, default_workers_per_model="4"))["minWorkers"] == 1
    assert (await describe("", None, default_workers_per_model="4"))["minWorkers"] == 4
    assert (await describe("", None))["minWorkers"] == 0


@row("3.2 workers at startup")
async def test_workers_at_startup(tmp_path: Path, gpus: list[Gpu]) -> None:
    pair = "minWorkers: 2\nmaxWorkers: 3\n"
    table = json.dumps({"m": {"1.0": {"minWorkers": 5, "maxWorkers": 6}}})
    both = {"models": table, "default_workers_per_model": "1"}
    cases: list[tuple[str, dict[str, str], tuple[int, int]]] = [
        (pair, both, (2, 3)),
        ("", both, (5, 6)),
        ("", {"default_workers_per_model": "1"}, (1, 1)),
        ("", {}, (3, 3)),  # the site has three cores
    ]
    for number, (yaml, settings, workers) in enumerate(cases):
        async with Site(tmp_path / str(number), **read(**settings)) as site:
            site.model(yaml=yaml)
            await site.management.startup.load("m-1.0")
            model = site.catalog.find("m")
            assert (model.min_workers, model.max_workers) == workers


@row("3.2 responseTimeout", "3.2 startupTimeout")
async def test_timeouts_go_by_yaml_call_models_default(describe: Register, table_row: str) -> None:
    """Each by itself, which is mended: TorchServe's were pinned to 120 by any yaml."""
    key = table_row.split()[1]
    name = {"responseTimeout": "response_timeout"}.get(key, "startup_timeout")
    call = {name: 3}
    both = {"models": json.dumps({"m": {"1.0": {key: 4}}}), f"default_{name}": "5"}
    assert (await describe(f"{key}: 2\n", call=call, **both))[key] == 2
    assert (await describe("batchSize: 2\n", call=call, **both))[key] == 3
    assert (await describe("batchSize: 2\n", **both))[key] == 4
    assert (await describe("batchSize: 2\n", **{f"default_{name}": "5"}))[key] == 5
    assert (await describe("batchSize: 2\n"))[key] == 120


def test_each_key_of_the_reader_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: set[str] = set()

    class Spy(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asked.add(key)
            return default

        def __contains__(self, key: object) -> bool:
            asked.add(str(key))
            return False

    monkeypatch.setattr(model_yaml.yaml, "safe_load", lambda _: Spy())
    (tmp_path / "m.yaml").touch()
    model_yaml.read_model_yaml(tmp_path / "m.yaml")
    keys = {name for name in rows(sys.modules[__name__], "3.1") if " " not in name}
    assert keys == asked
