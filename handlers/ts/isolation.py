"""What becomes of a batch whose first call failed: who gets the error, and who is run again.

`ts.service` calls it, only then. A row is run again without those that an error is about; with
``isolateErrors: true`` in the model's yaml all rows are, one by one, where no row is to blame.
Ranks that get the same batches run nothing again: `ts.service` leaves this out.
"""

from __future__ import annotations

import json
import logging
from typing import Callable, Dict, Iterable, Iterator, List, NamedTuple

from ts.prediction import Outcome, Prediction

logger = logging.getLogger(__name__)


class Part(NamedTuple):
    """Some rows of a batch, by number, and what answers them.

    ``rows`` may be empty: nothing is settled yet, and another call begins.
    """

    rows: List[int]
    outcome: Outcome


def settle(
    failed: Outcome,
    count: int,
    attempt: Callable[[List[int]], Outcome],
    begun: Callable[[int], bool],
    isolate: bool,
) -> Iterator[Part]:
    """Find an answer for each row.

    Args:
        failed: what the call with all rows came to.
        count: rows of the batch.
        attempt: runs the handler on the rows of these numbers.
        begun: whether the row with this number *in the last call* has begun to stream; it can't be
            run again, since its client would read its beginning twice.
        isolate: retry one by one where no row is to blame. That holds when memory ran out, too:
            it may well be enough for one.

    Yields:
        Parts as soon as they are known; each row is in one of them. Each further call has at least
        one row less than the one before.
    """
    rows, outcome = list(range(count)), failed
    while outcome.code != 200 and outcome.blamed:
        lost = [at for at in range(len(rows)) if at in outcome.blamed or begun(at)]
        yield Part([rows[at] for at in lost], outcome)
        rows = [row for at, row in enumerate(rows) if at not in lost]
        if not rows:
            return
        outcome = attempt(rows)
    if outcome.code == 200 or not isolate or len(rows) == 1:
        yield Part(rows, outcome)
        return
    lost = [at for at in range(len(rows)) if begun(at)]
    again = [row for at, row in enumerate(rows) if at not in lost]
    logger.warning("A batch of %d failed: %d are run again, one by one", len(rows), len(again))
    yield Part([rows[at] for at in lost], outcome)
    for row in again:
        yield Part([row], attempt([row]))


def joined(parts: Iterable[Part], count: int) -> Outcome:
    """One outcome of all parts, for TorchServe's wire: it knows one code for a batch, so that the
    error of a row has to be sent as its answer."""
    answers: Dict[int, Prediction] = {}
    for rows, outcome in parts:
        if outcome.code != 200 and len(rows) == count:
            return outcome
        each = outcome.predictions or [_error(outcome)] * len(rows)
        answers.update(zip(rows, each))
    return Outcome(200, "Prediction success", [answers[row] for row in range(count)])


def _error(outcome: Outcome) -> Prediction:
    body = {
        "code": outcome.code,
        "type": "InternalServerException",
        "message": outcome.message,
    }
    headers = {"content-type": "application/json"}
    return Prediction(outcome.code, "", headers, json.dumps(body, indent=2).encode() + b"\n")
