"""Whatever operators and clients do at once, the core ends consistent."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core_rig import Rig, model_folder
from tests.fakes import FakeWorker, LoadFailed, make_request, run_virtual
from tests.serial import Step, serializable
from ts_frontend.config import Config
from ts_frontend.core.devices import Devices
from ts_frontend.core.management import Management, Registration
from ts_frontend.core.slot import State
from ts_frontend.core.store import Store
from ts_frontend.errors import (
    Conflict,
    Internal,
    InvalidVersion,
    ModelNotFound,
    ServeError,
    VersionNotFound,
)
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


# One model, its versions, and whether every answer makes sense

_one_version = st.sampled_from(("1", "2", "3"))
_any_version = st.one_of(st.none(), _one_version)
_range = st.tuples(_workers, _workers).map(sorted)
_calls = st.one_of(
    st.tuples(st.just("register"), _one_version, _workers, st.booleans()),
    st.tuples(st.just("scale"), _any_version, _range, st.booleans()),
    st.tuples(st.just("unregister"), _any_version),
    st.tuples(st.just("default"), _one_version),
    st.tuples(st.just("describe"), st.one_of(_any_version, st.just("all"))),
    st.tuples(st.just("crash"), st.integers(0, 5)),
)
_plan_of_one = st.lists(st.tuples(st.floats(0.0, 3.0), _calls), min_size=1, max_size=20)


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered version as the serial model sees it; ``number`` is its register call's."""

    version: str
    number: int
    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Registry:
    """One model: its versions in the order of their registration, and the default one."""

    entries: tuple[Entry, ...] = ()
    default: str | None = None

    def get(self, version: str | None) -> Entry | None:
        wanted = self.default if version is None else version
        return next((one for one in self.entries if one.version == wanted), None)

    def add(self, entry: Entry) -> Registry:
        return Registry((*self.entries, entry), self.default or entry.version)

    def remove(self, entry: Entry) -> Registry | None:
        """Without this version; None where it is the default and not alone."""
        if entry.version == self.default and len(self.entries) > 1:
            return None
        left = tuple(one for one in self.entries if one is not entry)
        return Registry(left, self.default if left else None)

    def shown(self) -> tuple[object, ...]:
        """What can be seen from outside."""
        return (self.default, *((one.version, one.minimum, one.maximum) for one in self.entries))


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `Management` that was answered: with ``result``, or the error that came."""

    number: int
    step: tuple[Any, ...]
    begin: int
    end: int
    result: Any

    def steps(self, position: int) -> list[Step[Registry]]:
        """The call as `Step`s, the first of which will have this position."""
        apply = getattr(self, f"_{self.step[0]}")
        steps = [Step(self.begin, self.end, apply)]
        if self.step[0] == "register" and isinstance(self.result, Internal):
            # Its workers failed, so it went on to withdraw what it had entered.
            steps.append(Step(self.begin, self.end, self._withdraw, after=position))
        return steps

    def _register(self, state: Registry) -> Registry | None:
        version, workers = self.step[1:3]
        there = state.get(version) is not None
        if isinstance(self.result, Conflict):
            return state if there else None
        return None if there else state.add(Entry(version, self.number, workers, workers))

    def _withdraw(self, state: Registry) -> Registry:
        mine = next((one for one in state.entries if one.number == self.number), None)
        return state if mine is None else state.remove(mine) or state

    def _scale(self, state: Registry) -> Registry | None:
        version, (low, high) = self.step[1:3]
        found = state.get(version)
        if found is None or isinstance(self.result, (ModelNotFound, VersionNotFound)):
            return self._absent(state, version, found)
        scaled = replace(found, minimum=low, maximum=high)
        entries = tuple(scaled if one is found else one for one in state.entries)
        return Registry(entries, state.default)

    def _unregister(self, state: Registry) -> Registry | None:
        found = state.get(self.step[1])
        if found is None or isinstance(self.result, (ModelNotFound, VersionNotFound)):
            return self._absent(state, self.step[1], found)
        left = state.remove(found)
        if isinstance(self.result, InvalidVersion):
            return state if left is None else None
        return left

    def _default(self, state: Registry) -> Registry | None:
        found = state.get(self.step[1])
        if found is None or isinstance(self.result, ServeError):
            return self._absent(state, self.step[1], found)
        return Registry(state.entries, found.version)

    def _describe(self, state: Registry) -> Registry | None:
        version = self.step[1]
        found = state.get(None if version == "all" else version)
        if found is None or isinstance(self.result, ServeError):
            return self._absent(state, version, found)
        expected = state.entries if version == "all" else (found,)
        fields = ("modelVersion", "minWorkers", "maxWorkers")
        seen = [tuple(body[name] for name in fields) for body in self.result]
        same = seen == [(one.version, one.minimum, one.maximum) for one in expected]
        return state if same else None

    def _absent(self, state: Registry, version: object, found: Entry | None) -> Registry | None:
        """An answer that something is not there, if it says what is missing."""
        if found is not None or not isinstance(self.result, (ModelNotFound, VersionNotFound)):
            return None
        if not state.entries:
            return state if self.result.message == "Model not found: a" else None
        return state if f"ersion{self._colon} {version} does" in self.result.message else None

    @property
    def _colon(self) -> str:
        return "" if self.step[0] == "default" else ":"


class Recorded(Play):
    """A play about the model ``a`` that writes down each call and its answer."""

    def __init__(self, place: Path, delay: float, failing: int) -> None:
        super().__init__(place, delay, failing)
        self.clock = itertools.count()
        self.calls: list[Call] = []

    def begin(self, step: tuple[Any, ...]) -> None:
        if step[0] == "crash":
            self.do_crash(step[1])
        else:
            self._task(self._record(step))

    async def _record(self, step: tuple[Any, ...]) -> None:
        begin = next(self.clock)
        result: Any
        try:
            result = await self._ask(*step)
        except ServeError as error:
            result = error
        self.calls.append(Call(begin, step, begin, next(self.clock), result))

    async def _ask(self, kind: str, *step: Any) -> Any:
        if kind == "register":
            version, workers, wait = step
            asked = Registration(f"a-{version}", initial_workers=workers, synchronous=wait)
            return await self.management.register(asked)
        if kind == "scale":
            version, (low, high), wait = step
            return await self.management.scale("a", version, low, high, wait)
        if kind == "unregister":
            return await self.management.unregister("a", *step)
        if kind == "default":
            return self.management.set_default("a", *step)
        return await self.management.describe("a", *step)

    def seen(self) -> tuple[object, ...]:
        """What a `Registry` shows, of the real thing."""
        models = list(self.rig.catalog)
        default = models and self.rig.catalog.find("a").version
        return (
            default or None,
            *((model.version, model.min_workers, model.max_workers) for model in models),
        )

    def check_order(self) -> None:
        """Some order of the calls explains their answers and the end."""
        steps: list[Step[Registry]] = []
        for call in self.calls:
            steps += call.steps(len(steps))
        assert serializable(steps, Registry(), self.seen(), Registry.shown)


def test_the_search_for_an_order_can_fail() -> None:
    def at(begin: int, end: int, step: tuple[Any, ...], result: object) -> list[Step[Registry]]:
        return Call(begin, step, begin, end, result).steps(0)

    registered = at(0, 3, ("register", "1", 0, False), None)
    refused = ("unregister", None), ModelNotFound("Model not found: a")
    seen = ("1", ("1", 0, 0))
    assert serializable(registered + at(1, 2, *refused), Registry(), seen, Registry.shown)
    assert not serializable(registered + at(4, 5, *refused), Registry(), seen, Registry.shown)
    assert not serializable(registered, Registry(), (None,), Registry.shown)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plan=_plan_of_one, delay=st.floats(0.0, 1.5), failing=st.sampled_from([0, 2, 3]))
def test_calls_about_one_model_are_answered_as_in_some_order(
    plan: list[tuple[float, tuple[Any, ...]]], delay: float, failing: int
) -> None:
    async def main() -> None:
        with tempfile.TemporaryDirectory() as place:
            for version in ("1", "2", "3"):
                model_folder(Path(place) / "store", "a", version)
            (Path(place) / "models").mkdir()
            play = Recorded(Path(place), delay, failing)
            async with play.rig:
                loop = asyncio.get_running_loop()
                for moment, step in plan:
                    loop.call_at(moment, play.begin, step)
                await asyncio.sleep(4)
                await asyncio.gather(*play.tasks)
                await asyncio.sleep(400)  # whoever had failed is back
                play.check()
                play.check_order()

    run_virtual(main)
