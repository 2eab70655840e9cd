"""GPUs, row by row (reference §8.11, §5.4), of a stub that real servers take for the driver."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import MARS, Server, archive
from tests.nvml_stub import EIGHT, build

pytestmark = pytest.mark.e2e

YAMLS = {
    "whoami": "",
    "on-cpu": "deviceType: cpu\n",
    "on-gpu": "deviceType: gpu\n",
    "chosen": "deviceType: gpu\ndeviceIds: [2, 0]\n",
    "absent": "deviceType: gpu\ndeviceIds: [2, 3]\n",
    "pair": "parallelType: tp\nparallelLevel: 2\n",
    "chosen-pair": "parallelType: custom\nparallelLevel: 2\ndeviceIds: [2, 0]\n",
    "four": "parallelType: tp\nparallelLevel: 4\n",
    "pair-on-cpu": "deviceType: cpu\nparallelType: tp\nparallelLevel: 2\n",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that may use three of five visible GPUs of eight."""
    library = build(tmp_path_factory.mktemp("nvml"))
    server = Server(tmp_path_factory.mktemp("machine"))
    server.prepare(enable_model_api="true", number_of_gpu=3, disable_token_authorization="true")
    for name, yaml in YAMLS.items():
        config = server.folder / f"{name}.yaml"
        config.write_text(yaml or "batchSize: 1\n")
        archive(server.store, name, MARS / "whoami.py", "--config-file", str(config))
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("CUDA_", "NVIDIA_"))]:
            patch.delenv(name)
        patch.setenv("LD_LIBRARY_PATH", str(library))
        patch.setenv("STUB_NAMES", EIGHT)
        patch.setenv("CUDA_VISIBLE_DEVICES", "7,6,5,4,3")
        server.start()
    try:
        yield server
    finally:
        assert server.stop() == 0


@pytest.fixture
def gpus(machine: Server) -> Iterator[Server]:
    """The server, without models before and behind each test."""
    yield machine
    for model in machine.manage("GET", "/models").json["models"]:
        assert machine.manage("DELETE", f"/models/{model['modelName']}").status == 200


def described(server: Server, model: str, workers: int) -> dict[str, Any]:
    """Register an archive with so many workers; what describe says."""
    answer = server.register(f"{model}.mar", initial_workers=workers)
    assert answer.status == 200, answer.text
    (body,) = server.manage("GET", f"/models/{model}").json
    assert len(body["workers"]) == workers
    return dict(body)


def turns(body: dict[str, Any]) -> list[int | None]:
    """The GPU of each worker, as ``gpuUsage`` names it."""
    found: list[int | None] = []
    for worker in body["workers"]:
        usage = worker["gpuUsage"]
        assert worker["gpu"] is (usage != "N/A")
        found.append(int(usage.split()[0].removeprefix("gpuId::")) if worker["gpu"] else None)
    return found


def test_usage(gpus: Server) -> None:
    """[8.11 filtered by *_VISIBLE_DEVICES, clamped by number_of_gpu], [5.4 gpu, gpuUsage]"""
    body = described(gpus, "whoami", 3)
    assert body["deviceType"] == "gpu"
    assert {worker["gpu"] for worker in body["workers"]} == {True}
    # Ordinal 0 is the eighth GPU, and so on.
    assert {worker["gpuUsage"] for worker in body["workers"]} == {
        f"gpuId::{ordinal} utilization.gpu::{10 + gpu} % utilization.memory::{20 + gpu} % "
        f"memory.used::{100 + gpu} MiB"
        for ordinal, gpu in enumerate((7, 6, 5))
    }


def test_round_robin(gpus: Server) -> None:
    """[8.11 one server-wide round-robin counter, not reset on unregister]"""
    first = turns(described(gpus, "whoami", 2))
    second = turns(described(gpus, "on-gpu", 2))
    assert gpus.manage("DELETE", "/models/whoami").status == 200
    third = turns(described(gpus, "whoami", 2))
    seen = [*first, *second, *third]
    start = seen[0]
    assert start is not None
    assert seen == [(start + turn) % 3 for turn in range(6)]


def test_device_ids(gpus: Server) -> None:
    """[5.4 deviceIds], [8.11 deviceIds given: per-model counter starting at its first element]"""
    body = described(gpus, "chosen", 3)
    assert body["deviceIds"] == [2, 0]
    assert list(body).index("deviceIds") == list(body).index("deviceType") + 1
    assert turns(body) == [2, 0, 2]


def test_absent_device_ids(gpus: Server) -> None:
    """[5.4 deviceIds] only if valid: this server has the GPUs 0 to 2."""
    body = described(gpus, "absent", 1)
    assert "deviceIds" not in body
    assert turns(body) != [None]


def test_cpu(gpus: Server) -> None:
    """[8.11 deviceType: cpu]"""
    body = described(gpus, "on-cpu", 2)
    assert body["deviceType"] == "cpu"
    assert turns(body) == [None, None]
    assert gpus.predict("on-cpu").json["gpu_id"] is None


def test_worker(gpus: Server) -> None:
    """[8.11 the chosen id is sent to the worker, no visibility env var is set]"""
    (device,) = turns(described(gpus, "chosen", 1))
    answer = gpus.predict("chosen").json
    assert answer["gpu_id"] == device == 2
    assert answer["env"]["CUDA_VISIBLE_DEVICES"] == "7,6,5,4,3"


def test_ranks(gpus: Server) -> None:
    """[8.11 parallelLevel>0: CUDA_VISIBLE_DEVICES, capacity, min/max reduced]"""
    body = described(gpus, "pair", 1)
    assert turns(body) == [0]
    answer = gpus.predict("pair").json
    assert answer["gpu_id"] == 0
    env = answer["env"]
    assert env["CUDA_VISIBLE_DEVICES"] == "7,6"  # as the driver knows them
    assert (env["LOCAL_RANK"], env["WORLD_SIZE"], env["OMP_NUM_THREADS"]) == ("0", "2", "1")
    assert gpus.manage("PUT", "/models/pair", min_worker=3, synchronous="true").status == 200
    (body,) = gpus.manage("GET", "/models/pair").json
    assert (body["minWorkers"], body["maxWorkers"], len(body["workers"])) == (1, 1, 1)


def test_one_process_with_several_gpus(gpus: Server) -> None:
    """[8.11 custom], with [deviceIds]"""
    assert turns(described(gpus, "chosen-pair", 1)) == [2]
    answer = gpus.predict("chosen-pair").json
    assert answer["gpu_id"] == 0
    assert answer["env"]["CUDA_VISIBLE_DEVICES"] == "5,7"
    assert "RANK" not in answer["env"]


def test_more_gpus_than_there_are(gpus: Server) -> None:
    """[5.2 fewer GPUs than parallelLevel]"""
    answer = gpus.register("four.mar", initial_workers=1)
    assert answer.status == 500
    assert answer.json["type"] == "WorkerInitializationException"
    assert answer.json["message"] == "No enough gpu devices for model:four parallelLevel:4"
    assert gpus.manage("GET", "/models/four").status == 404


def test_ranks_on_the_cpu(gpus: Server) -> None:
    """[8.11 deviceType: cpu], with [parallelLevel]"""
    assert turns(described(gpus, "pair-on-cpu", 1)) == [None]
    answer = gpus.predict("pair-on-cpu").json
    assert answer["gpu_id"] is None
    assert answer["env"]["CUDA_VISIBLE_DEVICES"] == "7,6,5,4,3"
