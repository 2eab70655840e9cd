"""Whatever operators and clients do at once, the core ends consistent."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core_rig import Rig, model_folder
from tests.fakes import FakeWorker, LoadFailed, make_request, run_virtual
from ts_frontend.config import Config
from ts_frontend.core.devices import Devices
from ts_frontend.core.management import Management, Registration
from ts_frontend.core.slot import State
from ts_frontend.core.store import Store
from ts_frontend.errors import ServeError
from ts_worker.backend.base import ReplySink, WorkerSpec
from ts_worker.messages import Predict

NAMES = ("a", "b")
VERSIONS = ("1", "2")

_name = st.sampled_from(NAMES)
_version = st.one_of(st.none(), st.sampled_from(VERSIONS))
_workers = st.integers(0, 3)
_steps = st.one_of(
    st.tuples(st.just("register"), _name, st.sampled_from(VERSIONS), _workers, st.booleans()),
    st.tuples(st.just("scale"), _name, _version, _workers, st.booleans()),
    st.tuples(st.just("unregister"), _name, _version),
    st.tuples(st.just("default"), _name, st.sampled_from(VERSIONS)),
    st.tuples(st.just("predict"), _name, _version),
    st.tuples(st.just("crash"), st.integers(0, 5)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
)
_plan = st.lists(st.tuples(st.floats(0.0, 3.0), _steps), min_size=1, max_size=25)


class Play:
    """Runs a plan: each step begins at its moment, whether or not earlier ones have ended."""

    def __init__(self, place: Path, delay: float, failing: int) -> None:
        self.rig = Rig(Config(model_store=place / "store", temp_dir=place), self._behave)
        self.delay = delay
        self.failing = failing
        self.loads = 0
        self.rig.backend.load = self._load
        self.tasks: list[asyncio.Task[object]] = []
        self.management = Management(
            self.rig.config,
            self.rig.catalog,
            Store(self.rig.config),
            self.rig.supervisor,
            Devices(0, {}),
            cores=1,
            environ={},
        )

    async def _load(self, spec: WorkerSpec) -> None:
        self.loads += 1
        number = self.loads
        await asyncio.sleep(self.delay)
        early = asyncio.get_running_loop().time() < 6
        if early and self.failing and number % self.failing == 0:
            raise LoadFailed(500, "every so often")

    def _behave(self, worker: FakeWorker, batch: Predict, reply: ReplySink) -> None:
        asyncio.get_running_loop().call_later(self.delay, worker.answer, batch, reply)

    def begin(self, step: tuple[object, ...]) -> None:
        call: Callable[..., object] = getattr(self, f"do_{step[0]}")
        call(*step[1:])

    def _task(self, work: Coroutine[Any, Any, object]) -> None:
        self.tasks.append(asyncio.create_task(work))

    def do_register(self, name: str, version: str, workers: int, wait: bool) -> None:
        asked = Registration(f"{name}-{version}", initial_workers=workers, synchronous=wait)
        self._task(self.management.register(asked))

    def do_scale(self, name: str, version: str | None, workers: int, wait: bool) -> None:
        self._task(self.management.scale(name, version, workers, workers, wait))

    def do_unregister(self, name: str, version: str | None) -> None:
        self._task(self.management.unregister(name, version))

    def do_default(self, name: str, version: str) -> None:
        try:
            self.management.set_default(name, version)
        except ServeError:
            return

    def do_predict(self, name: str, version: str | None) -> None:
        self._task(self.rig.inference.predict(name, version, make_request()))

    def do_crash(self, index: int) -> None:
        alive = self.rig.backend.alive
        if alive:
            alive[index % len(alive)].die(1, None)

    def do_cancel(self, index: int) -> None:
        if self.tasks:
            self.tasks[index % len(self.tasks)].cancel()

    def check(self) -> None:
        rig = self.rig
        slots = [slot for model in rig.catalog for slot in model.slots]
        assert all(slot.state is State.READY for slot in slots)
        # A process for each slot, and none besides.
        assert sorted(w.id for w in rig.backend.alive) == sorted(slot.id for slot in slots)
        for model in rig.catalog:
            assert model.min_workers <= len(model.slots) <= model.max_workers
            assert model.queue.consumers == len(model.slots)
            assert len(model.queue) == 0
            assert model.queue._unfinished == 0
            share = max(1, 8 // max(1, len(model.slots)))
            assert all(slot.threads == share for slot in model.slots)
        roots = {model.archive.root.name for model in rig.catalog}
        models = rig.config.temp_dir / "models"
        assert {path.name for path in models.glob("*/*")} == roots
        for model in rig.catalog.defaults():
            assert model in rig.catalog.versions(model.name)
        assert rig.inference.healthy()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=_plan, delay=st.floats(0.0, 1.5), failing=st.sampled_from([0, 2, 3]))
def test_random_interleavings_end_consistent(
    plan: list[tuple[float, tuple[object, ...]]], delay: float, failing: int
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as place:
            for name in NAMES:
                for version in VERSIONS:
                    model_folder(Path(place) / "store", name, version)
            (Path(place) / "models").mkdir()
            play = Play(Path(place), delay, failing)
            async with play.rig:
                loop = asyncio.get_running_loop()
                for moment, step in plan:
                    loop.call_at(moment, play.begin, step)
                await asyncio.sleep(4)
                results = await asyncio.gather(*play.tasks, return_exceptions=True)
                for result in results:
                    # Every call is answered: with a result or with an error that has a text.
                    failed = isinstance(result, BaseException)
                    expected = isinstance(result, (ServeError, asyncio.CancelledError))
                    assert expected or not failed, result
                await asyncio.sleep(400)  # whoever had failed is back
                play.check()

    run_virtual(main)
