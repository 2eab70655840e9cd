"""One worker's place in a model version: started, served from, restarted with back-off.

`supervisor` makes and retires slots; a slot outlives the worker processes in it.
"""

from __future__ import annotations

import asyncio
import enum
import logging
import time
import traceback
from collections.abc import Callable

from ts_frontend.core.batching import JobQueue
from ts_frontend.core.devices import GpuSet
from ts_frontend.core.dispatch import Pump, death_status
from ts_frontend.core.events import Reports
from ts_frontend.core.history import History
from ts_frontend.core.load_gate import LoadGate
from ts_frontend.core.meter import Meter, RestartReason, VersionMeter
from ts_frontend.core.settings import Settings
from ts_worker.backend.base import Backend, ExitReason, LoadFailed, Worker, WorkerSpec

logger = logging.getLogger(__name__)

# Seconds before each further attempt, TorchServe's table; the last value repeats.
BACK_OFF = (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597)
STOP_GRACE = 2.0  # seconds between asking a worker to end and SIGKILL


class State(enum.Enum):
    """Where a slot stands."""

    STARTING = enum.auto()
    READY = enum.auto()
    WAITING = enum.auto()  # for the next attempt
    DEAD = enum.auto()  # the retry window has passed; still listed, as in TorchServe
    RETIRED = enum.auto()


class Slot:
    """Keeps one worker alive.

    Args:
        id: TorchServe's worker id, a port number in its day.
        name: ``W-{id}-{model}_{version}``, as in logs and metrics.
        gate: has its workers wait until they may load.
        needs: bytes of memory that a worker takes to load its model, as far as one can tell.
        counts: of this model version, told of each batch and restart.
        make_spec: what to start, asked before each attempt.
        given_up: called when no further attempt will be made.
        device: CUDA ordinal of the worker's GPU, the first of several; None for the CPU.
        threads: torch threads of the worker; 0 leaves torch's own choice.
        gpus: its GPUs, where it needs several and sees no others.
    """

    def __init__(
        self,
        id: str,
        name: str,
        *,
        backend: Backend,
        gate: LoadGate,
        needs: int,
        queue: JobQueue,
        settings: Settings,
        meter: Meter,
        counts: VersionMeter,
        reports: Reports,
        make_spec: Callable[[Slot], WorkerSpec],
        given_up: Callable[[], None],
        device: int | None,
        threads: int,
        gpus: GpuSet | None = None,
        not_installed: str = "",
    ) -> None:
        self.id = id
        self.name = name
        self.device = device
        self.gpus = gpus
        self.threads = threads
        self.reports = reports
        self.state = State.STARTING
        self.history = History()
        self.has_loaded = False  # a worker, once; False again when it is given up
        self.started_at = time.time()  # of the current process
        self.failure: LoadFailed | None = None  # of the last worker, until the next has loaded
        self._backend = backend
        self._gate = gate
        self._needs = needs
        self._queue = queue
        self._settings = settings
        self._meter = meter
        self._make_spec = make_spec
        self._not_installed = not_installed
        self._ending: RestartReason = "load_failed"  # of the last worker
        self._given_up = given_up
        self._worker: Worker | None = None
        self._pump: Pump | None = None
        self._task: asyncio.Task[None] | None = None
        self._retries = 0
        self._unsuccessful = 0
        self._failing_since: float | None = None
        self._logged = ""  # the last traceback: each retry of a broken model has the same
        self._counts = counts
        # Result of the first attempt: why the worker did not load; None where it did, and where
        # the slot was retired before, which is no failure.
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[LoadFailed | None] = loop.create_future()

    @property
    def pids(self) -> tuple[int, ...]:
        """Of its worker's processes, that of rank 0 first."""
        return self.reports.pids

    @property
    def pid(self) -> int | None:
        return next(iter(self.reports.pids), None)

    @property
    def error(self) -> str | None:
        """Why the last worker failed, until the next has loaded."""
        return None if self.failure is None else self.failure.message

    @property
    def in_flight(self) -> int:
        """Requests that its worker has and has not answered."""
        return 0 if self._pump is None else self._pump.in_flight

    def start(self) -> None:
        """Begin; ends with `retire`."""
        self._counts.joined(self)
        self._task = asyncio.create_task(self._run(), name=self.name)
        self._task.add_done_callback(self._ended)

    def healthy(self, now: float) -> bool:
        """TorchServe's rule: it never failed, or fails for less than the retry window."""
        since = self._failing_since
        return since is None or now - since < self._settings.max_retry_timeout

    def set_threads(self, count: int) -> None:
        """Compute with this many threads, from the next batch of a worker that already runs."""
        if count == self.threads:
            return
        self.threads = count
        if self._worker is not None:
            self._worker.resize(count)

    async def retire(self, drain: float) -> None:
        """Stop for good; the current batch has ``drain`` seconds to be answered."""
        self.state = State.RETIRED
        try:
            if self._pump is not None:
                await self._pump.drain(drain)
        finally:
            if self._task is not None:
                self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            self._enter(State.STARTING)
            self.started_at = time.time()
            self.reports.ended()
            try:
                failure = await self._load()
            except LoadFailed as error:
                failure = self._explained(error)
                self._log_failure(failure)
            self.reports.ended()
            if self.state is State.RETIRED:
                return
            self.failure = failure
            if not self.first.done():
                self.first.set_result(failure)
            pause = self._next_pause()
            if pause is None:
                return
            self._enter(State.WAITING, failure.message)
            logger.info("Retry worker: %s in %s seconds.", self.id, pause)
            await asyncio.sleep(pause)
            self._counts.restarted(self._ending)

    async def _load(self) -> LoadFailed:
        """Start a worker and serve until it ends; the result says why it did."""
        self._ending = "load_failed"
        try:
            async with self._gate.turn(self._needs):
                begun = time.monotonic()
                spec = self._make_spec(self)
                worker = await self._backend.start(spec)
        except OSError as error:
            raise LoadFailed(500, f"The worker process could not start: {error}.") from error
        try:
            self._loaded(worker, spec, int((time.monotonic() - begun) * 1000))
            return await self._serve(worker)
        finally:
            self._worker = None
            await worker.stop(STOP_GRACE)

    def _loaded(self, worker: Worker, spec: WorkerSpec, milliseconds: int) -> None:
        self._worker = worker
        if spec.threads != self.threads:
            worker.resize(self.threads)
        if self.state is not State.RETIRED:
            self._enter(State.READY)
        self.has_loaded = True
        self.failure = None
        self._retries = 0
        if self._failing_since is not None:
            self._failing_since = None
            logger.info("Auto recovery succeeded, reset recoveryStartTS")
        logger.info("%s loaded its model in %s ms", self.name, milliseconds)
        self._meter.worker_load_time(self.name, milliseconds)
        if not self.first.done():
            self.first.set_result(None)

    async def _serve(self, worker: Worker) -> LoadFailed:
        timeout = self._settings.response_timeout
        pump = Pump(
            worker,
            self._queue,
            self._meter,
            self._counts,
            timeout,
            self._settings.max_response_size,
        )
        self._pump = pump
        status = 500
        try:
            async with asyncio.TaskGroup() as group:
                pumping = group.create_task(pump.run(), name=f"{self.name}-pump")
                reason = await worker.exited()
                pumping.cancel()
            status = death_status(reason)
        finally:
            self._pump = None
            pump.fail(status)
        self._count_unsuccessful(pump)
        logger.warning("%s Worker disconnected. %s", self.name, reason.text)
        self._ending = "timeout" if pump.timed_out or reason.timed_out else _ending(reason)
        text = "The worker did not answer in time." if pump.timed_out else reason.text
        return LoadFailed(status, text, "\n".join(reason.stderr_tail))

    def _count_unsuccessful(self, pump: Pump) -> None:
        if pump.served:
            self._unsuccessful = 0
        if pump.timed_out:
            self._unsuccessful += 1
            logger.error("Number or consecutive unsuccessful inference %s", self._unsuccessful)

    def _next_pause(self) -> int | None:
        """Seconds until the next attempt; None once the retry window has passed."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
            logger.info("Auto recovery start timestamp: %s", int(time.time() * 1000))
        else:
            logger.warning("Auto recovery failed again")
        if now - self._failing_since >= self._settings.max_retry_timeout:
            logger.error(
                "%s is given up: it did not recover within maxRetryTimeoutInSec=%s",
                self.name,
                self._settings.max_retry_timeout,
            )
            return None
        pause = BACK_OFF[min(self._retries, len(BACK_OFF) - 1)]
        self._retries += 1
        return pause

    def _explained(self, failure: LoadFailed) -> LoadFailed:
        """With the likely cure where a package is missing that the archive asks for."""
        missing = "ModuleNotFoundError: "
        if not self._not_installed or missing not in f"{failure.message}\n{failure.traceback}":
            return failure
        text = f"{failure.message} ({self._not_installed})"
        return LoadFailed(failure.code, text, failure.traceback)

    def _log_failure(self, failure: LoadFailed) -> None:
        detail = f"\n{failure.traceback}" if failure.traceback else ""
        if detail and detail == self._logged:
            detail = " (the traceback is that of the last time)"
        else:
            self._logged = detail
        logger.error("%s failed to load its model: %s%s", self.name, failure.message, detail)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._counts.left(self)
        if not task.cancelled() and (bug := task.exception()) is not None:
            self.failure = LoadFailed(500, str(bug), "".join(traceback.format_exception(bug)))
            logger.error("%s is lost", self.name, exc_info=bug)
        if not self.first.done():
            self.first.set_result(None if self.state is State.RETIRED else self.failure)
        if self.state is not State.RETIRED:
            self.has_loaded = False
            self._enter(State.DEAD, self.error or "")
            self._given_up()

    def _enter(self, state: State, reason: str = "") -> None:
        self.state = state
        self.history.add(state.name, reason)


def _ending(reason: ExitReason) -> RestartReason:
    return "exit" if reason.signal is None else "signal"
