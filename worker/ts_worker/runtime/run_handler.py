"""Runs a handler once, outside a worker but as in one: for debuggers, profilers and the curious.

`ts_frontend.run_handler` starts it with one argument, see `ts_worker.trial`. The terminal is the
handler's own, so that ``breakpoint()`` works. Exit codes: 1 the handler failed, 2 there is nothing
to run, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import time
import traceback
from typing import Any, Dict, Iterator, List, NoReturn, Sequence

from ts_worker.messages import pack_headers
from ts_worker.runtime.birth import leave
from ts_worker.runtime.loading import load_service
from ts_worker.runtime.phases import Phases, time_table
from ts_worker.runtime.rows import rows_of
from ts_worker.runtime.samples import (
    BadSample,
    Sample,
    content_type_of,
    raw_sample,
    read_samples,
)
from ts_worker.runtime.showing import Shown, show
from ts_worker.runtime.threads import ThreadCount
from ts_worker.trial import Trial, loads

_ROWS = 20  # of the profiler's table
_EXPLAIN = pack_headers([("explain", "True")])  # as the server marks such requests


class Unusable(Exception):
    """There is nothing to run; the text says why."""


def main(argv: Sequence[str]) -> NoReturn:
    """Run a trial; the result is the exit code."""
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(levelname)s %(name)s - %(message)s"
    )
    # Metrics are records, too; nobody collects them here.
    logging.getLogger().handlers[0].addFilter(lambda record: not hasattr(record, "metric"))
    logging.captureWarnings(True)
    try:
        code = run(loads(argv[0]))
    except (Unusable, BadSample) as error:
        _say(str(error))
        code = 2
    except KeyboardInterrupt:
        code = 130
    except SystemExit as end:  # of the handler, or of a debugger that was told to quit
        _say(f"The handler ended the process: SystemExit({end.code!r})")
        code = 1
    except Exception:
        traceback.print_exc()
        code = 1
    leave(code)


def run(trial: Trial) -> int:
    """Load the model, run every batch, print answers and times; returns the exit code."""
    begun = time.perf_counter()
    inputs = _files(trial)
    service = load_service(trial.load, ThreadCount())
    loaded = (time.perf_counter() - begun) * 1000
    samples = inputs or read_samples(trial.load.model_dir)
    if not samples:
        raise Unusable("There is nothing to run: give --input, or put samples into warmup/")
    parts: Dict[str, List[bytes]] = {}
    service.set_chunk_sink(
        lambda id, status, reason, head, body: parts.setdefault(id, []).append(body)
    )
    phases = Phases(service.handler)
    answers: List[Shown] = []
    for number in range(trial.repeat):
        last = number == trial.repeat - 1
        with _profiled(trial.profile and last), phases.round():
            answers = _round(service, trial, samples, parts)
    show(answers, trial.output)
    print(time_table(loaded, phases.rounds), file=sys.stderr)
    return 0


def _files(trial: Trial) -> List[Sample]:
    """The inputs, read before the handler can change anything."""
    found = []
    for path, content_type in trial.inputs:
        kind = content_type_of(path) if content_type is None else content_type
        try:
            with open(path, "rb") as file:
                found.append(raw_sample(path, file.read(), kind))
        except OSError as error:
            raise Unusable(f"{path} can't be read: {error.strerror}") from None
    return found


def _round(
    service: Any, trial: Trial, samples: Sequence[Sample], parts: Dict[str, List[bytes]]
) -> List[Shown]:
    """Run each sample once, in batches that are filled up by repeating them."""
    size = trial.batch or min(len(samples), trial.load.batch_size)
    shown: List[Shown] = []
    for start in range(0, len(samples), size):
        batch = [samples[at % len(samples)] for at in range(start, start + size)]
        shown += _call(service, trial, batch, parts)
    return shown[: len(samples)]


def _call(
    service: Any, trial: Trial, batch: List[Sample], parts: Dict[str, List[bytes]]
) -> List[Shown]:
    if trial.explain:
        batch = [_explaining(sample) for sample in batch]
    headers, rows, ids = rows_of(
        tuple(sample.request() for sample in batch), trial.load.decode_input_request
    )
    outcome = service.run(headers, rows, ids)
    if outcome.code != 200:
        raise ValueError(f"{outcome.message}: handle must return a list with one element a request")
    return [
        Shown(
            sample.name,
            prediction.status,
            prediction.reason,
            prediction.headers,
            b"".join([*parts.pop(id, []), bytes(prediction.body)]),
        )
        for sample, id, prediction in zip(batch, ids.values(), outcome.predictions)
    ]


def _explaining(sample: Sample) -> Sample:
    headers = b"\0".join(part for part in (sample.headers, _EXPLAIN) if part)
    return sample._replace(headers=headers)


@contextlib.contextmanager
def _profiled(wanted: bool) -> Iterator[None]:
    """Print `torch.profiler`'s table of what is run inside."""
    if not wanted:
        yield
        return
    try:
        from torch.profiler import ProfilerActivity, profile
    except ImportError:
        raise Unusable("--profile needs torch, and this environment has none") from None
    import torch

    activities = [ProfilerActivity.CPU]
    order = "self_cpu_time_total"
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
        order = "self_cuda_time_total"
    with profile(activities=activities) as profiler:
        yield
    print(profiler.key_averages().table(sort_by=order, row_limit=_ROWS), file=sys.stderr)


def _say(text: str) -> None:
    print(f"run-handler: {text}", file=sys.stderr)
