"""Workers that are spread over processes and GPUs: what the yaml says, who gets which GPUs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core_rig import Site
from ts_frontend.core.devices import Devices
from ts_frontend.core.management import Registration
from ts_frontend.core.nvml import Gpu
from ts_frontend.core.parallel import Parallel, read_parallel
from ts_frontend.core.yaml_reader import YamlReader
from ts_frontend.errors import InvalidModel, WorkerInitialization
from ts_worker.backend.base import Ranks

PAIR = "parallelType: tp\ntorchrun: {nproc-per-node: 2}\n"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets how many GPUs the machine has; none until then."""
    found: list[Gpu] = []
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: found)

    def resize(count: int) -> None:
        found[:] = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(count)]

    return resize


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, None),
        ({"parallelType": "pp", "parallelLevel": 2}, Parallel("pp", 2)),
        ({"parallelType": "custom", "parallelLevel": 4}, Parallel("custom", 4)),
        ({"parallelType": "tp", "torchrun": {}}, Parallel("tp", 1)),
        (
            {"parallelType": "pptp", "torchrun": {"nproc-per-node": 4, "OMP_NUMBER_THREADS": 2}},
            Parallel("pptp", 4, 2),
        ),
    ],
)
def test_what_is_followed(
    values: dict[str, object], expected: Parallel | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert read_parallel(YamlReader(values, "m.yaml")) == expected
    assert not caplog.records


@pytest.mark.parametrize(
    ("values", "expected", "warning"),
    [
        ({"parallelType": "dp", "parallelLevel": 2}, None, "parallelType must be pp, tp, pptp or"),
        ({"parallelType": "tp"}, None, "no effect without parallelLevel or nproc-per-node"),
        ({"parallelLevel": 2}, None, "have no effect without parallelType"),
        ({"torchrun": {"nproc-per-node": 2}}, None, "have no effect without parallelType"),
        ({"parallelType": "tp", "torchrun": 2}, None, "torchrun must be a mapping, not 2"),
        (
            {"parallelType": "tp", "parallelLevel": 4, "torchrun": {"nproc-per-node": 2}},
            Parallel("tp", 2),
            "parallelLevel 4 is ignored: torchrun has nproc-per-node 2",
        ),
        (
            {"parallelType": "tp", "torchrun": {"nproc-per-node": "gpu"}},
            Parallel("tp", 1),
            "m.yaml: torchrun: nproc-per-node must be a whole number, not 'gpu'",
        ),
        (
            {"parallelType": "tp", "torchrun": {"nproc_per_node": 2, "standalone": True}},
            Parallel("tp", 1),
            "unknown parameters are ignored: nproc_per_node, standalone",
        ),
        (
            {"parallelType": "tp", "torchrun": {"rdzv-backend": "etcd", "node-rank": 1}},
            Parallel("tp", 1),
            "rdzv-backend, node-rank have no effect: the server starts all ranks itself",
        ),
    ],
)
def test_what_is_not_followed_warns(
    values: dict[str, object],
    expected: Parallel | None,
    warning: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert read_parallel(YamlReader(values, "m.yaml")) == expected
    assert warning in caplog.text


def test_several_machines_are_refused() -> None:
    values = {"parallelType": "tp", "torchrun": {"nnodes": 2, "nproc-per-node": 4}}
    with pytest.raises(InvalidModel, match=r"m\.yaml: torchrun: nnodes is 2, but all ranks"):
        read_parallel(YamlReader(values, "m.yaml"))


def test_defaults_of_torchrun_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    section = {"nnodes": 1, "rdzv-backend": "c10d", "monitor-interval": 5, "node-rank": 0}
    read = YamlReader({"parallelType": "pp", "torchrun": section}, "m.yaml")
    assert read_parallel(read) == Parallel("pp", 1)
    assert not caplog.records


def test_one_thread_each_unless_somebody_chose() -> None:
    assert Parallel("tp", 2).environment({"A": "b"}) == {"A": "b", "OMP_NUM_THREADS": "1"}
    assert Parallel("tp", 2).environment({"OMP_NUM_THREADS": "4"}) == {"OMP_NUM_THREADS": "4"}
    assert Parallel("tp", 2, 3).environment({"OMP_NUM_THREADS": "4"}) == {"OMP_NUM_THREADS": "3"}
    assert Parallel("custom", 2, 3).environment({"A": "b"}) == {"A": "b"}


@pytest.mark.parametrize(
    ("count", "ids", "level", "expected"),
    [
        (4, None, 2, ["0,1", "2,3"]),
        (5, None, 2, ["0,1", "2,3"]),
        (4, (3, 1, 0, 2), 2, ["3,1", "0,2"]),
        (3, None, 4, []),
        (2, (1,), 2, []),
        (2, None, 1, ["0", "1"]),
    ],
)
def test_gpus_by_the_set(
    machine: Callable[[int], None],
    count: int,
    ids: tuple[int, ...] | None,
    level: int,
    expected: list[str],
) -> None:
    machine(count)
    assert [each.visible for each in Devices(None, {}).sets(ids, level)] == expected


def test_sets_are_named_as_the_server_sees_the_gpus(machine: Callable[[int], None]) -> None:
    machine(8)
    for asked in ("7, 5,GPU-3,1", "7,5,GPU-3,1,99"):
        sets = Devices(None, {"CUDA_VISIBLE_DEVICES": asked}).sets(None, 2)
        assert [each.devices for each in sets] == [(0, 1), (2, 3)]
        assert [each.visible for each in sets] == ["7,5", "GPU-3,1"]


async def test_ranks_on_gpus(tmp_path: Path, machine: Callable[[int], None]) -> None:
    machine(4)
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml=PAIR), 2)
        first, second = site.backend.specs
        assert [spec.env["CUDA_VISIBLE_DEVICES"] for spec in (first, second)] == ["0,1", "2,3"]
        assert (first.ranks, second.ranks) == (Ranks(2, 29500, True), Ranks(2, 29502, True))
        assert first.device == second.device == 0  # the first of those that it sees
        assert first.env["OMP_NUM_THREADS"] == "1"
        assert [slot.device for slot in site.catalog.find("m").slots] == [0, 2]


async def test_ranks_on_the_cpu(tmp_path: Path, machine: Callable[[int], None]) -> None:
    for count, yaml in ((4, "deviceType: cpu\n"), (0, ""), (0, "deviceType: gpu\n")):
        machine(count)
        async with Site(tmp_path / f"{count}{len(yaml)}") as site:
            await site.register(site.model(yaml=PAIR + yaml), 3)
            assert {spec.device for spec in site.backend.specs} == {None}
            assert all("CUDA_VISIBLE_DEVICES" not in spec.env for spec in site.backend.specs)
            assert len(site.backend.alive) == 3


async def test_a_pipeline_is_asked_at_its_first_rank(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="parallelType: pp\nparallelLevel: 3\n"), 1)
        assert site.worker.spec.ranks == Ranks(3, 29500, False)


async def test_custom_is_one_process_with_several_gpus(
    tmp_path: Path, machine: Callable[[int], None]
) -> None:
    machine(4)
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="parallelType: custom\nparallelLevel: 4\n"), 1)
        spec = site.worker.spec
        assert (spec.ranks, spec.device) == (None, 0)
        assert spec.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
        assert "OMP_NUM_THREADS" not in spec.env
        assert spec.id == "29500"


async def test_too_few_gpus_for_one_worker(tmp_path: Path, machine: Callable[[int], None]) -> None:
    machine(1)
    async with Site(tmp_path) as site:
        with pytest.raises(WorkerInitialization) as caught:
            await site.register(site.model(yaml=PAIR), 1)
        assert caught.value.message == "No enough gpu devices for model:m parallelLevel:2"
        assert caught.value.status == 500
        assert site.unpacked == 0
        assert not list(site.catalog)


async def test_too_few_gpus_for_all_workers(
    tmp_path: Path, machine: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    machine(5)
    async with Site(tmp_path) as site:
        outcome = await site.register(site.model(yaml=PAIR), 4)
        assert outcome.message.endswith("registered with 2 initial workers")
        assert "gets 2 worker(s) at most, not 4: each takes 2 GPUs for itself" in caplog.text
        model = site.catalog.find("m")
        assert (model.min_workers, model.max_workers, len(model.slots)) == (2, 2, 2)
        outcome = await site.management.scale("m", None, 1, 9, True)
        assert (outcome.status, outcome.message) == (200, "Workers scaled to 1 for model: m")
        assert (model.min_workers, model.max_workers) == (1, 2)
        assert (await site.management.scale("m", None, 3, 3, True)).message == (
            "Workers scaled to 2 for model: m"
        )


async def test_a_new_worker_gets_the_gpus_that_are_free(
    tmp_path: Path, machine: Callable[[int], None]
) -> None:
    machine(4)
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml=PAIR), 2)
        for _ in range(2):
            await site.management.scale("m", None, 1, 1, True)
            await site.management.scale("m", None, 2, 2, True)
        visible = [worker.spec.env["CUDA_VISIBLE_DEVICES"] for worker in site.backend.alive]
        assert sorted(visible) == ["0,1", "2,3"]


async def test_at_startup_the_cores_are_shared_out(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        model = site.model(yaml=PAIR)
        await site.management.startup.load(model)
        await site.backend.until(lambda: len(site.backend.workers) == 1)
        assert site.catalog.find("m").min_workers == 1  # of 3 cores


async def test_a_snapshot_has_the_level(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.register(site.model("m", yaml=PAIR), 1)
        await site.register(site.model("plain"), 1)
        levels = {one.model: one.parallel_level for one in site.management.startup.saved()}
        assert levels == {"m": 2, "plain": None}


async def test_pids_and_memory_are_those_of_all_ranks(tmp_path: Path) -> None:
    async with Site(tmp_path) as site:
        await site.management.register(Registration(site.model(yaml=PAIR), initial_workers=1))
        (slot,) = site.catalog.find("m").slots
        slot.reports.ended()
        for rank in (1, 0):
            part = slot.reports.of_rank(rank)
            part.started(1 if rank else 2**22 + 5)
            part.output("stdout", f"of {rank}")
        assert slot.pids == (2**22 + 5, 1)
        assert slot.pid == 2**22 + 5
        assert [line[0] for line in site.log.lines[-2:]] == [
            "W-29500-m_1.0-rank1",
            "W-29500-m_1.0-rank0",
        ]
        (body,) = await site.management.describe("m", None)
        (worker,) = body["workers"]
        assert worker["pid"] == 2**22 + 5
        assert worker["memoryUsage"] > 0  # of process 1; the other one does not exist
