"""What operators ask for beyond TorchServe's metrics: gauges made when /metrics is read, figures
of batches and restarts, and that nothing of it outlives its version."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.core_rig import Rig, until
from tests.fakes import Behaviour, FakeWorker, echo, hold, make_request, run_virtual
from tests.frontend.http_fakes import FakeLogs
from ts_frontend.core.events import answer_calls
from ts_frontend.core.inference import Inference
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import BACK_OFF
from ts_frontend.core.status import STATES, Status
from ts_frontend.core.supervisor import Supervisor
from ts_frontend.metrics.live import Usage, WorkerMemory
from ts_frontend.metrics.meters import REASONS, SIZE_BUCKETS
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import Spec, default_path, load_spec
from ts_frontend.metrics.system import Gpus
from ts_worker.messages import Metric

LABELS = 'model_name="m",model_version="1.0",'
LIVE = (
    *("ts_model_default_version", "ts_queue_depth", "ts_queue_oldest_wait_seconds"),
    *("ts_requests_in_flight", "ts_workers"),
)


class Memory(WorkerMemory):
    """Each process holds a hundred bytes, and seven on a GPU if its id is even."""

    def __init__(self) -> None:
        self.asked: list[set[int]] = []

    def usage(self, pids: Any) -> Usage:
        self.asked.append(set(pids))
        return Usage(dict.fromkeys(pids, 100), {pid: 7 for pid in pids if pid % 2 == 0})


class Metered(Rig):
    """A core that a real recorder measures."""

    def __init__(self, behaviour: Behaviour = echo, spec: Spec | None = None) -> None:
        super().__init__(behaviour=behaviour)
        self.memory = Memory()
        self.recorder = Recorder(
            load_spec(default_path()) if spec is None else spec,
            FakeLogs(),
            host="h",
            mode="prometheus",
            auto_detect=True,
            status=Status(self.catalog),
            memory=self.memory,
        )
        self.inference = Inference(self.catalog, self.recorder)
        self.supervisor = Supervisor(
            *(self.config, self.catalog, self.backend),
            meter=self.recorder,
            log=self.log,
            answer=answer_calls(self.inference),
            cores=8,
        )

    async def samples(self, *names: str) -> dict[str, float]:
        """The samples of a page by name and labels, without the host."""
        lines = (await self.recorder.page(names)).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name.replace('hostname="h",', ""): float(value) for name, value in pairs}

    async def drop(self, model: ModelVersion) -> None:
        """Unregister a version."""
        self.catalog.remove(model)
        await self.supervisor.stop(model, lambda: self.catalog.missing(model.name, None))

    def predict(self, name: str = "m", version: str | None = None) -> asyncio.Task[Any]:
        return asyncio.create_task(self.inference.predict(name, version, make_request()))


def test_gauges_show_the_moment_of_reading() -> None:
    async def main() -> None:
        async with Metered(hold) as rig:
            model = await rig.serve(workers=2, batch_size=2)
            tasks = [rig.predict() for _ in range(4)]  # two for each
            await until(lambda: all(worker.current for worker in rig.backend.workers))
            samples = await rig.samples(*LIVE)
            assert samples == {
                f"ts_model_default_version{{{LABELS}}}": 1,
                f"ts_queue_depth{{{LABELS}}}": 0,
                f"ts_queue_oldest_wait_seconds{{{LABELS}}}": 0,
                f"ts_requests_in_flight{{{LABELS}}}": 4,
                **{f'ts_workers{{{LABELS}state="{state}",}}': 0 for state in STATES},
                f'ts_workers{{{LABELS}state="ready",}}': 2,
            }
            tasks.append(rig.predict())
            await until(lambda: len(model.queue) == 1)
            model.queue._waiting[0].arrived -= 9
            samples = await rig.samples()
            assert samples[f"ts_queue_depth{{{LABELS}}}"] == 1
            assert 9 <= samples[f"ts_queue_oldest_wait_seconds{{{LABELS}}}"] < 19
            assert samples[f"ts_requests_in_flight{{{LABELS}}}"] == 4
            for worker in rig.backend.workers:
                worker.behaviour = echo
                worker.finish()
            await asyncio.gather(*tasks)
            samples = await rig.samples()
            assert samples[f"ts_requests_in_flight{{{LABELS}}}"] == 0

    run_virtual(main)


def test_memory_is_of_the_workers_that_are_there() -> None:
    async def main() -> None:
        async with Metered() as rig:
            model = await rig.serve(workers=2)
            names = ("ts_worker_resident_memory_bytes", "ts_worker_gpu_memory_bytes")
            first, second = (f'{{{LABELS}worker_id="{id}",}}' for id in (9000, 9001))
            assert await rig.samples(*names) == {
                f"{names[0]}{first}": 100,
                f"{names[0]}{second}": 100,
                f"{names[1]}{first}": 7,  # the second's id is odd: the driver does not know it
            }
            assert rig.memory.asked == [{worker.pid for worker in rig.backend.workers}]
            await rig.supervisor.settle(rig.supervisor.scale(model, 1, 1), None)
            assert await rig.samples(names[0]) == {f"{names[0]}{first}": 100}
            rig.worker.die(1, None)
            asked = len(rig.memory.asked)
            await rig.samples("ts_queue_depth")
            assert len(rig.memory.asked) == asked  # no process is looked at in vain

    run_virtual(main)


def test_a_worker_that_ends_while_memory_is_read_is_left_out() -> None:
    async def main() -> None:
        async with Metered() as rig:
            model = await rig.serve()

            def usage(pids: Any) -> Usage:
                model.slots[0].reports.ended()
                return Usage(dict.fromkeys(pids, 1))

            rig.memory.usage = usage  # type: ignore[method-assign]
            assert await rig.samples("ts_worker_resident_memory_bytes") == {}

    run_virtual(main)


def test_batches_and_restarts() -> None:
    async def main() -> None:
        async with Metered() as rig:
            await rig.serve(batch_size=8)
            for count in (1, 3, 8):
                await asyncio.gather(*[rig.predict() for _ in range(count)])
            rig.worker.die(None, 9)
            await asyncio.sleep(BACK_OFF[0])
            await rig.backend.until(lambda: len(rig.backend.workers) == 2)
            samples = await rig.samples()
            sizes = [samples[f'ts_batch_size_bucket{{{LABELS}le="{n}",}}'] for n in SIZE_BUCKETS]
            assert sizes == [1, 1, 2, 3, 3, 3, 3, 3, 3]
            assert samples[f'ts_batch_size_bucket{{{LABELS}le="+Inf",}}'] == 3
            assert samples[f"ts_batch_size_sum{{{LABELS}}}"] == 12
            assert samples[f"ts_handler_duration_seconds_count{{{LABELS}}}"] == 3
            assert 0 <= samples[f"ts_handler_duration_seconds_sum{{{LABELS}}}"] < 10
            restarts = {
                reason: samples[f'ts_worker_restarts_total{{{LABELS}reason="{reason}",}}']
                for reason in REASONS
            }
            assert restarts == {"exit": 0, "signal": 1, "timeout": 0, "load_failed": 0}

    run_virtual(main)


def test_names_select_the_new_ones_too_and_prometheus_reads_them() -> None:
    async def main() -> None:
        async with Metered() as rig:
            await rig.serve()
            await rig.predict()
            text = (await rig.recorder.page(["ts_queue_depth", "ts_batch_size_count"])).decode()
            assert text == (
                "# HELP ts_batch_size Torchserve prometheus histogram metric with unit: Requests\n"
                "# TYPE ts_batch_size histogram\n"
                f'ts_batch_size_count{{{LABELS}hostname="h",}} 1.0\n'
                "# HELP ts_queue_depth Torchserve prometheus gauge metric with unit: Requests\n"
                "# TYPE ts_queue_depth gauge\n"
                f'ts_queue_depth{{{LABELS}hostname="h",}} 0.0\n'
            )
            whole = (await rig.recorder.page([])).decode()
            families = {one.name: one.type for one in text_string_to_metric_families(whole)}
            assert families["ts_worker_restarts"] == "counter"
            assert families["ts_handler_duration_seconds"] == "histogram"
            assert {families[name] for name in LIVE} == {"gauge"}

    run_virtual(main)


def test_the_docs_have_every_metric() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()

    async def main() -> None:
        async with Metered() as rig:
            assert [
                name for name in rig.recorder._registry._families if f"`{name}`" not in text
            ] == []

    run_virtual(main)
    assert all(f"`{word}`" in text for word in (*STATES, *REASONS))


def test_without_a_metrics_yaml_there_is_nothing_but_serving_works() -> None:
    async def main() -> None:
        async with Metered(spec=Spec()) as rig:
            await rig.serve()
            await rig.predict()
            assert await rig.recorder.page([]) == b""

    run_virtual(main)


def _reported(worker: FakeWorker, name: str) -> None:
    dimensions = (("ModelName", name), ("Level", "Model"))
    for metric in ("PredictionTime", f"Own{len(name)}"):
        worker.spec.events.metric(Metric(metric, "ms", "gauge", 1.0, dimensions, ""))


def test_series_go_with_their_version_and_model() -> None:
    async def main() -> None:
        async with Metered() as rig:
            first = await rig.serve()
            _reported(rig.worker, "m")
            second = rig.add(version="2.0")
            await rig.supervisor.settle(rig.supervisor.scale(second, 1, 1), None)
            for version in (None, "1.0", "2.0"):
                await rig.predict(version=version)
            assert 'WorkerLoadTime{WorkerName="W-9001-m_2.0",Level="Host",Hostname="h",}' in (
                await rig.samples()
            )
            await rig.drop(second)
            left = await rig.samples()
            assert not any('model_version="2.0"' in name or "_2.0" in name for name in left)
            counted = "ts_inference_requests_total"
            assert left[f'{counted}{{model_name="m",model_version="default",}}'] == 1
            assert left[f"{counted}{{{LABELS}}}"] == 1
            assert 'PredictionTime{ModelName="m",Level="Model",Hostname="h",}' in left
            await rig.drop(first)
            assert not any("m" in name.partition("{")[2].split('"') for name in await rig.samples())

    run_virtual(main)


def test_a_series_without_the_models_name_goes_with_the_last_that_reported_it() -> None:
    async def main() -> None:
        async with Metered() as rig:
            models = []
            for name in ("m", "n"):
                models.append(await rig.serve(name))
                for hall in ("all", name):
                    rig.worker.spec.events.metric(
                        Metric("Heat", "C", "gauge", 1.0, (("Hall", hall),), "")
                    )
            heat = [f'Heat{{Hall="{hall}",Hostname="h",}}' for hall in ("all", "m", "n")]
            assert [name in await rig.samples() for name in heat] == [True, True, True]
            await rig.drop(models[0])
            assert [name in await rig.samples() for name in heat] == [True, False, True]
            await rig.drop(models[1])
            assert [name in await rig.samples() for name in heat] == [False, False, False]

    run_virtual(main)


def test_a_version_that_still_ends_keeps_its_meter() -> None:
    """What its worker says last must not bring its series back for ever."""

    async def main() -> None:
        async with Metered(hold) as rig:
            model = await rig.serve()
            task = rig.predict()
            await rig.worker.received()
            rig.catalog.remove(model)
            stopping = asyncio.create_task(
                rig.supervisor.stop(model, lambda: rig.catalog.missing("m", None))
            )
            assert f"ts_queue_depth{{{LABELS}}}" not in await rig.samples()
            _reported(rig.worker, "m")
            rig.worker.finish()
            await stopping
            await task
            assert 'ModelName="m"' not in str(await rig.samples())

    run_virtual(main)


def _held(recorder: Recorder) -> int:
    """How many entries a recorder has in all of its tables."""
    rooms = (recorder, recorder._models, recorder._registry)
    tables: list[Any] = [value for room in rooms for value in vars(room).values()]
    count = sum(len(family._children) for family in recorder._registry._families.values())
    while tables:
        table = tables.pop()
        if isinstance(table, dict | set):
            count += len(table)
            tables += table.values() if isinstance(table, dict) else ()
    return count


def test_workers_that_follow_each_other_leave_nothing() -> None:
    """Though nobody reads the metrics: each worker has a name, and a series, of its own."""

    async def main() -> None:
        async with Metered() as rig:
            model = await rig.serve()
            held = _held(rig.recorder)
            for _ in range(50):
                for workers in (2, 1):
                    await rig.supervisor.settle(rig.supervisor.scale(model, workers, workers), None)
            assert _held(rig.recorder) <= held + 2  # the last one's, in two tables

    run_virtual(main)


@pytest.mark.parametrize("read", [False, True])
def test_a_thousand_rounds_of_registering_leave_nothing(read: bool) -> None:
    async def main() -> None:
        async with Metered() as rig:
            held: list[int] = []
            for number in range(1000):
                name = f"m{number:04}"
                model = await rig.serve(name)
                await rig.predict(name)
                await rig.predict(name, "1.0")
                _reported(rig.worker, name)
                await rig.drop(model)
                rig.backend.workers.clear()
                if read and number % 100 == 0:
                    await rig.samples()
                held.append(_held(rig.recorder))
            assert held[-1] == held[1]
            assert not any('"m0' in name for name in await rig.samples())
            assert not rig.recorder._versions
            assert not rig.recorder._meters

    run_virtual(main)


class Nvml:
    """Two GPUs; the second tells no processes."""

    class NVMLError(Exception):
        pass

    def __init__(self, held: dict[int, int | None]) -> None:
        self.held = held

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 3

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        if handle == 1:
            raise self.NVMLError("Not Supported")
        return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in self.held.items()]


def test_memory_of_real_processes() -> None:
    """A child of a worker is in its session, so what it holds on a GPU is the worker's."""
    script = (
        "import subprocess, sys; "
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
        "print(child.pid, flush=True); input(); child.communicate(b'x\\n')"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as worker:
        assert worker.stdout is not None
        child = int(worker.stdout.readline())
        held: dict[int, int | None] = {worker.pid: 10, child: 5, os.getppid(): 99, 2**22 + 1: 3}
        gpus = Gpus(load=lambda: Nvml(held))
        usage = WorkerMemory(gpus).usage({worker.pid, 2**22 + 5})
        worker.communicate(b"x\n")
    assert set(usage.resident) == {worker.pid}
    assert usage.resident[worker.pid] > 2**20
    assert usage.gpu == {worker.pid: 30}  # on two devices


def test_memory_that_the_driver_does_not_tell() -> None:
    assert Gpus(load=lambda: Nvml({1: None})).memory_by_process() == {}

    def missing() -> Any:
        raise ImportError("pynvml")

    memory = WorkerMemory(Gpus(load=missing))
    assert memory.usage({os.getpid()}).gpu == {}
    assert memory.usage(()) == Usage()
