"""Runs a model's sample requests at every batch size before its worker counts as loaded.

Called by `loop`. What the first calls pay for (kernels, caches, `torch.compile`)
is then paid before a client waits for it.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Callable, Iterable, List, Sequence

from ts_worker.runtime.rows import rows_of
from ts_worker.runtime.samples import Sample, read_samples

log = logging.getLogger(__name__)

KEY = "warmupSeconds"  # of the model's yaml
SECONDS = 30.0


class WarmUpFailed(RuntimeError):
    """The handler failed on a sample; the text says on which, and how."""


def warm_up(service: Any, decode: bool, clock: Callable[[], float] = time.monotonic) -> None:
    """Run the archive's samples, where it has any; answers are thrown away.

    Ends early, with a warning, once ``warmupSeconds`` of the model's yaml have passed; 0 runs
    nothing.

    Args:
        service: the loaded model.
        decode: whether JSON and text are decoded, as for requests.

    Raises:
        BadSample: a sample can't be read.
        WarmUpFailed: the handler raised, or answered with an error.
        ValueError: ``warmupSeconds`` is no number.
    """
    context = service.context
    seconds = _seconds(context.model_yaml_config)
    samples = read_samples(context.system_properties["model_dir"])
    if not samples or not seconds:
        return
    batches = _batches(samples, context.system_properties["batch_size"] or 1)
    begun = clock()
    service.set_chunk_sink(lambda *_: None)
    done = _run(service, batches, decode, lambda: clock() - begun < seconds)
    service.set_chunk_sink(None)
    if done < len(batches):
        left = sorted({len(batch) for batch in batches[done:]})
        log.warning(
            "Warm-up ended after %s=%g s: %d of %d batches were run, not those of %s",
            KEY,
            seconds,
            done,
            len(batches),
            ", ".join(map(str, left)),
        )
    else:
        log.info("Warm-up: %d batches in %d ms", done, (clock() - begun) * 1000)


def batch_sizes(largest: int) -> List[int]:
    """Every size up to ``largest``: 1, it, and the powers of two come first, since time may run
    out."""
    first = [1, largest, *(1 << power for power in range(1, largest.bit_length()))]
    return list(dict.fromkeys(size for size in (*first, *range(1, largest + 1)) if size <= largest))


def _batches(samples: Sequence[Sample], largest: int) -> List[List[Sample]]:
    """Each sample alone, then one batch of each further size, in which samples may repeat."""
    alone = [[sample] for sample in samples]
    sizes = batch_sizes(largest)[1:]
    return alone + [[samples[at % len(samples)] for at in range(size)] for size in sizes]


def _run(
    service: Any, batches: Iterable[List[Sample]], decode: bool, in_time: Callable[[], bool]
) -> int:
    """Run batches while there is time; returns how many were."""
    done = 0
    for batch in batches:
        if not in_time():
            break
        _run_batch(service, batch, decode)
        done += 1
    return done


def _run_batch(service: Any, batch: List[Sample], decode: bool) -> None:
    rows = rows_of(tuple(sample.request() for sample in batch), decode)
    try:
        outcome = service.run(*rows)
    except MemoryError:
        raise  # answered with a code of its own
    except Exception as error:
        from ts.failures import text_of  # there since the model was loaded

        raise WarmUpFailed(_told(batch, f"{type(error).__name__}: {text_of(error)}")) from error
    if outcome.code != 200:
        raise WarmUpFailed(_told(batch, outcome.message))
    for sample, prediction in zip(batch, outcome.predictions):
        if prediction.status >= 400:
            said = bytes(prediction.body[:200]).decode("utf-8", "replace")
            raise WarmUpFailed(_told([sample], f"status {prediction.status} {said}".rstrip()))


def _told(batch: List[Sample], cause: str) -> str:
    names = ", ".join(dict.fromkeys(sample.name for sample in batch))
    size = f" in a batch of {len(batch)}" if len(batch) > 1 else ""
    return f"The handler failed on {names}{size}: {cause}"


def _seconds(config: Any) -> float:
    value = config.get(KEY, SECONDS)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
        raise ValueError(f"{KEY} must be a number of seconds, 0 for no warm-up, not {value!r}")
    return float(value)
