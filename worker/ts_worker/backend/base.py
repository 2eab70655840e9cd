"""The lower seam: what the core needs from whatever runs the models.

`core.dispatch` and `core.supervisor` are the only callers; `process` implements it with local
processes, `tests/fakes.py` in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ts_worker.messages import Call, CallReply, Log, Metric, Predict, Reply, ReplyChunk

Batch = Predict
ReplySink = Callable[[Reply | ReplyChunk], None]


class WorkerGone(Exception):
    """The worker's process has ended: nothing was sent to it."""


class LoadFailed(Exception):
    """A worker could not load its model.

    Args:
        code: 500, or 507 when memory (the machine's or the GPU's) ran out.
        message: one line that names the cause.
        traceback: the handler's Python traceback, or the last lines the process wrote.
    """

    def __init__(self, code: int, message: str, traceback: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.traceback = traceback


class LoadTimedOut(LoadFailed):
    """A worker did not load its model in time.

    Args:
        seconds: the time limit.
        stacks: where its threads stood.
    """

    def __init__(self, seconds: float | None, stacks: str = "") -> None:
        super().__init__(500, f"It did not load within startupTimeout={seconds} s.", stacks)


class WorkerEvents(Protocol):
    """What a worker tells beside its answers, from the moment its process exists."""

    def started(self, pid: int) -> None: ...
    def output(self, stream: str, line: str) -> None:
        """One line the process wrote; ``stream`` is "stdout" or "stderr"."""

    def log(self, record: Log) -> None: ...
    def metric(self, metric: Metric) -> None: ...
    async def call(self, call: Call) -> CallReply:
        """Answer a handler that calls another model."""

    def of_rank(self, rank: int) -> WorkerEvents:
        """Where one process of several tells the same."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """A worker of several processes that compute one model together, numbered from 0.

    Args:
        count: of processes; one of them alone is told its rank, too.
        first_port: they meet at the first free port from here on.
        all_predict: a batch goes to all of them; else only to rank 0, which asks the others itself.
    """

    count: int
    first_port: int
    all_predict: bool


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything needed to bring up one worker of one model version."""

    id: str  # TorchServe's worker id, a port number in its day: "9000"
    model_name: str
    model_version: str
    model_dir: str
    handler: str
    events: WorkerEvents
    batch_size: int = 1
    device: int | None = None  # CUDA ordinal among the GPUs that it sees; None for CPU
    envelope: str | None = None
    limit_max_image_pixels: bool = True
    decode_input_request: bool = True
    metrics_config: str | None = None
    threads: int = 1
    startup_timeout: float | None = None  # seconds to load the model in; None for any number
    response_timeout: float | None = None  # seconds for the other ranks to follow rank 0
    python: str | None = None  # interpreter of the model; None for the server's own
    import_paths: tuple[str, ...] = ()  # model folder, pip target, ... in order
    env: Mapping[str, str] = field(default_factory=dict)  # the worker's whole environment
    prefetch: bool = False  # it prepares batches while it runs an earlier one
    ranks: Ranks | None = None  # None for a worker of one process
    rank: int = 0  # of this process; only rank 0 answers


@dataclass(frozen=True, slots=True)
class ExitReason:
    """Why a worker's process ended: an exit code or a signal, one line of text, last output.

    Args:
        timed_out: it was ended because ranks did not finish a batch that rank 0 had answered.
    """

    code: int | None
    signal: int | None
    text: str
    stderr_tail: tuple[str, ...] = ()
    timed_out: bool = False


class Worker(Protocol):
    """One loaded model somewhere."""

    @property
    def id(self) -> str: ...
    @property
    def pid(self) -> int | None: ...
    @property
    def device(self) -> int | None: ...
    @property
    def begun(self) -> bool:
        """Whether it may have begun the oldest batch that it has not answered; those after it
        are sent ahead. It holds after its end as well."""

    def predict(self, batch: Batch, reply: ReplySink) -> None:
        """Send a batch. ``reply`` is called in any order, several times when streaming.

        It is never called again once the worker has exited: wait for `exited` as well.

        Raises:
            WorkerGone: it has ended already; the batch is the caller's as before.
        """

    def cancel(self, request_id: bytes) -> None:
        """Tell the handler that nobody waits for this request any more."""

    def hold(self, on: bool) -> None:
        """Read nothing more of what it sends until released: it will wait in its next write."""

    def resize(self, threads: int) -> None:
        """Compute with this many threads from the next batch on."""

    async def stop(self, grace: float) -> None:
        """End the process and everything it started; SIGKILL after ``grace`` seconds."""

    async def exited(self) -> ExitReason:
        """Wait for the end of the process; may be awaited by several tasks."""


class Backend(Protocol):
    """Where workers come from."""

    async def start(self, spec: WorkerSpec) -> Worker:
        """Bring up a worker; returns when its model is loaded.

        Cancelling kills the half-started process and waits for its end.

        Raises:
            LoadFailed: the handler raised, the process ended before the model was loaded, or
                ``startup_timeout`` has passed; then the traceback has where its threads stood.
        """

    async def close(self) -> None:
        """End every worker that is left, and what the backend itself runs."""
