"""Gives model versions their workers: more, fewer, none; and shares out threads and GPUs.

`management` calls it; `server` drains and closes it at the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.events import CallAnswerer, Reports
from ts_frontend.core.inference import no_worker
from ts_frontend.core.load_gate import LoadGate
from ts_frontend.core.memory import available_memory
from ts_frontend.core.meter import Meter, ModelLog
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import Slot, State
from ts_frontend.errors import Internal, RequestTimeout, ServeError, ServiceUnavailable
from ts_worker.backend.base import Backend, LoadFailed, WorkerSpec

if TYPE_CHECKING:
    from ts_frontend.config import Config

logger = logging.getLogger(__name__)

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# A model while it loads, in sizes of its files: what is read and what is made of it.
_LOADED = 2
_STOP_MARGIN = 5.0  # seconds beyond the drain limit for processes to end
_TRACEBACK_LINES = 60


@dataclass(frozen=True, slots=True)
class Change:
    """What a call of `Supervisor.scale` has set going, to have ``wanted`` workers at least:
    fewer than asked for where there are too few GPUs."""

    model: ModelVersion
    wanted: int
    started: tuple[Slot, ...]
    retiring: tuple[asyncio.Task[None], ...]


class Supervisor:
    """All workers of the server.

    Args:
        answer: runs a handler's call to another model, see `events.answer_calls`.
        cores: usable cores of the machine, shared by the workers of each version.
    """

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        backend: Backend,
        *,
        meter: Meter,
        log: ModelLog,
        answer: CallAnswerer,
        cores: int,
    ) -> None:
        self._config = config
        self._catalog = catalog
        self._backend = backend
        self._meter = meter
        self._log = log
        self._answer = answer
        self._cores = cores
        self._gate = LoadGate(max(2, cores), available_memory)
        self._next_id = config.initial_worker_port
        self._next_parallel_id = config.initial_distribution_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._retired: set[Slot] = set()

    def scale(self, model: ModelVersion, minimum: int, maximum: int) -> Change:
        """Bring the workers between ``minimum`` and ``maximum``; between them nothing happens.

        Both are lowered to what the GPUs are enough for, where a worker needs several.
        Returns at once: new workers load, surplus ones (the last started) answer their current
        batch and end. `settle` waits for both.
        """
        minimum, maximum = _within_capacity(model, minimum, maximum)
        model.min_workers, model.max_workers = minimum, maximum
        slots = model.slots
        before = len(slots)
        while len(slots) < minimum:
            slots.append(self._new_slot(model))  # at once: the next one gets other GPUs
        started = slots[before:]
        surplus = [slots.pop() for _ in range(len(slots) - max(minimum, maximum))]
        self._recount(model)
        self._share_threads(model)
        for slot in started:
            slot.start()
        retiring = self._retire(surplus, self._drain_limit)
        return Change(model, minimum, tuple(started), retiring)

    async def settle(self, change: Change, version: str | None) -> bool:
        """Wait for what `scale` began; True when all workers that it wanted are running: another
        call may have come over it.

        Args:
            version: as the client named it, for TorchServe's text: None prints as ``null``.

        Raises:
            Internal: 500, or 507 when memory ran out, as soon as one worker failed to load. The
                text goes on with the cause and the traceback. Workers keep retrying.
        """
        pending: set[asyncio.Future[LoadFailed | None]] = {slot.first for slot in change.started}
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for failure in [future.result() for future in done]:
                if failure is not None:
                    raise _start_failed(change.model, version, failure)
        if change.retiring:
            await asyncio.wait(change.retiring)
        ready = sum(slot.state is State.READY for slot in change.model.slots)
        return ready >= change.wanted

    async def stop(self, model: ModelVersion, reason: Callable[[], ServeError]) -> None:
        """End all workers of a version and answer what waits in its queue with ``reason()``.

        Raises:
            RequestTimeout: they did not end in ``unregister_model_timeout``; they are still being
                ended.
        """
        slots, model.slots = model.slots, []
        model.queue.dismiss(reason)
        retiring = self._retire(slots, self._drain_limit)
        if not retiring:
            return
        limit = self._drain_limit + _STOP_MARGIN
        _, pending = await asyncio.wait(retiring, timeout=limit)
        if pending:
            for slot, task in zip(slots, retiring, strict=True):
                if task in pending:
                    logger.warning(
                        "%s (process %s) has not ended within %.0f s; it goes on being ended",
                        slot.name,
                        slot.pid,
                        limit,
                    )
            raise RequestTimeout(f"Timed out while cleaning resources: {model.name}")

    async def drain(self, limit: float) -> bool:
        """Wait until every queued and running request is answered; False when ``limit``
        seconds were not enough.

        The edges stop accepting first.
        """
        waits = [model.queue.join() for model in self._catalog]
        try:
            async with asyncio.timeout(limit):
                await asyncio.gather(*waits)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End every worker without waiting for its batch; the backend itself is not closed."""
        slots: list[Slot] = []
        for model in self._catalog:
            slots += model.slots
            model.slots = []
            self._refuse_waiting(model)
        self._retire(slots, 0.0)
        self._retire(list(self._retired), 0.0)
        while self._tasks:
            await asyncio.wait(self._tasks)

    @property
    def _drain_limit(self) -> float:
        return float(self._config.unregister_model_timeout)

    def _recount(self, model: ModelVersion) -> None:
        """Tell the queue who may ever serve it. With nobody left its jobs get 503 at once, where
        TorchServe let them wait for ever once all workers were given up."""
        able = sum(slot.state is not State.DEAD for slot in model.slots)
        model.queue.consumers = able
        if not able:
            self._refuse_waiting(model)

    def _refuse_waiting(self, model: ModelVersion) -> None:
        model.queue.dismiss(lambda: ServiceUnavailable(no_worker(model.name, None)))

    def _new_slot(self, model: ModelVersion) -> Slot:
        id, gpus = self._take_id(model), model.free_gpus()
        name = f"W-{id}-{model.name}_{model.version}"
        counts = self._meter.version(model.name, model.version)
        model.queue.counted(counts)
        return Slot(
            id,
            name,
            backend=self._backend,
            gate=self._gate,
            needs=_LOADED * model.archive.size,
            queue=model.queue,
            settings=model.settings,
            meter=self._meter,
            counts=counts,
            reports=Reports(name, model.name, model.version, self._log, self._meter, self._answer),
            make_spec=lambda slot: self._spec(model, slot),
            given_up=lambda: self._recount(model),
            device=model.next_device() if gpus is None else gpus.devices[0],
            threads=0,
            gpus=gpus,
            not_installed=model.launch.not_installed,
        )

    def _take_id(self, model: ModelVersion) -> str:
        """TorchServe's numbers: its ports, and a worker of several processes needed several."""
        parallel = model.settings.parallel
        if parallel is None:
            id, self._next_id = self._next_id, self._next_id + 1
        else:
            id, self._next_parallel_id = (
                self._next_parallel_id,
                self._next_parallel_id + parallel.level,
            )
        return str(id)

    def _spec(self, model: ModelVersion, slot: Slot) -> WorkerSpec:
        config, launch = self._config, model.launch
        parallel = model.settings.parallel
        device, env = slot.device, launch.env
        if slot.gpus is not None:
            # It sees these alone, and numbers them anew.
            device, env = 0, {**env, "CUDA_VISIBLE_DEVICES": slot.gpus.visible}
        return WorkerSpec(
            id=slot.id,
            model_name=model.name,
            model_version=model.version,
            model_dir=launch.model_dir,
            handler=launch.handler,
            events=slot.reports,
            batch_size=model.settings.batch_size,
            device=device,
            envelope=config.service_envelope,
            limit_max_image_pixels=config.limit_max_image_pixels,
            decode_input_request=config.decode_input_request,
            metrics_config=None if config.metrics_config is None else str(config.metrics_config),
            threads=slot.threads,
            startup_timeout=model.settings.startup_timeout,
            response_timeout=model.settings.response_timeout,
            python=launch.python,
            import_paths=launch.import_paths,
            env=env,
            ranks=None if parallel is None else parallel.ranks(int(slot.id)),
            prefetch=model.settings.prefetch > 0,
        )

    def _share_threads(self, model: ModelVersion) -> None:
        # Two workers with all cores each are slower than one: they fight for the same cores.
        chosen = any(name in model.launch.env for name in _THREAD_VARIABLES)
        count = 0 if chosen else max(1, self._cores // max(1, len(model.slots)))
        for slot in model.slots:
            slot.set_threads(count)

    def _retire(self, slots: Iterable[Slot], drain: float) -> tuple[asyncio.Task[None], ...]:
        return tuple(self._hold(slot, slot.retire(drain)) for slot in slots)

    def _hold(self, slot: Slot, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"retire-{slot.id}")
        self._tasks.add(task)
        self._retired.add(slot)

        def drop(_: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._retired.discard(slot)

        task.add_done_callback(drop)
        return task


def _within_capacity(model: ModelVersion, minimum: int, maximum: int) -> tuple[int, int]:
    capacity = len(model.gpu_sets)
    if not capacity or maximum <= capacity:
        return minimum, maximum
    logger.warning(
        "Model %s version %s gets %s worker(s) at most, not %s: each takes %s GPUs for itself",
        model.name,
        model.version,
        capacity,
        maximum,
        len(model.gpu_sets[0].devices),
    )
    return min(minimum, capacity), capacity


def _start_failed(model: ModelVersion, version: str | None, failure: LoadFailed) -> Internal:
    lines = [
        f"Failed to start workers for model {model.name} version: {version or 'null'}",
        failure.message,
        *failure.traceback.splitlines()[-_TRACEBACK_LINES:],
    ]
    status = 507 if failure.code == 413 else failure.code
    return Internal("\n".join(lines), status=status)
