"""Mended on purpose: which GPUs a worker gets, and how its ranks keep in step."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core_rig import Site
from tests.worker.test_rank_group import GroupRig
from ts_frontend.core.devices import Devices
from ts_frontend.core.nvml import Gpu
from ts_worker.backend.base import Ranks
from ts_worker.backend.group import rank_specs

PAIR = "parallelType: tp\nparallelLevel: 2\n"


def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(4)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)


def test_gpus_are_given_out_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's first worker went to the second GPU."""
    gpus = [Gpu(f"GPU-{number}", "H100", f"{number}") for number in range(3)]
    monkeypatch.setattr("ts_frontend.core.devices.list_gpus", lambda: gpus)
    turns = Devices(None, {}).assigner(None, None)
    assert [turns() for _ in range(4)] == [0, 1, 2, 0]


async def test_a_level_needs_no_torchrun(site: Site) -> None:
    """TorchServe's workers failed for want of the section."""
    await site.register(site.model(yaml=PAIR))
    assert site.worker.spec.ranks == Ranks(2, 29500, True)


async def test_workers_without_gpus_are_told(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """TorchServe said that it had scaled to what was asked."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 1)
    answer = await site.management.scale("m", None, 3, 3, True)
    assert answer.message == "Workers scaled to 2 for model: m"
    assert "Model m version 1.0 gets 2 worker(s) at most, not 3" in caplog.text


async def test_a_new_worker_gets_gpus_of_its_own(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TorchServe's next worker got those behind the last one's, round about."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 2)
    for workers in (1, 2):
        await site.management.scale("m", None, workers, workers, True)
    gpus = [worker.spec.env["CUDA_VISIBLE_DEVICES"] for worker in site.backend.alive]
    assert sorted(gpus) == ["0,1", "2,3"]


async def test_each_rank_sees_its_gpu_id(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """TorchServe's second worker had the number 2, and two GPUs: 0 and 1."""
    four_gpus(monkeypatch)
    await site.register(site.model(yaml=PAIR), 2)
    assert len(site.backend.specs) == 2
    for spec in site.backend.specs:
        assert spec.ranks is not None
        assert [one.device for one in rank_specs(spec, spec.ranks, 29500)] == [0, 1]


async def test_ranks_in_step_mix_no_batches() -> None:
    """In TorchServe rank 1 stayed in the operation that rank 0 had given up."""
    rig = GroupRig()
    rig.predict(1)
    rig.ranks[0].finish()
    rig.predict(2)
    assert rig.sent() == [[1], [1]]
    rig.ranks[1].finish()
    assert rig.sent() == [[1, 2], [1, 2]]


@pytest.mark.parametrize(
    ("system", "kind", "device"), [("darwin arm64", "mps", 0), ("linux x86_64", "cpu", None)]
)
async def test_a_yaml_may_ask_for_mps(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    system: str,
    kind: str,
    device: int | None,
) -> None:
    """TorchServe took it for a mistake. A handler chooses mps where its worker has a gpu_id."""
    monkeypatch.setattr("ts_frontend.core.devices.platform_name", lambda: system)
    async with Site(tmp_path) as site:
        await site.register(site.model(yaml="deviceType: MPS\n"))
        (body,) = await site.management.describe("m", None)
        assert (body["deviceType"], site.worker.device) == (kind, device)
    assert ("deviceType mps needs a Mac" in caplog.text) == (kind == "cpu")
