"""What a handler's errors become: TorchServe's table of codes and texts, and cures for some.

`ts.service` calls it; the traceback goes to the log, the client gets none of it.
"""

from __future__ import annotations

import logging
import operator
import pickle
from typing import Any, Dict, List, Optional, Tuple

from ts.prediction import UNSUPPORTED_OUTPUT, Outcome, UnsupportedOutput
from ts.utils.util import PredictionException

# How a file with pickled objects comes to be loaded all the same.
_CURE = (
    "Save plain weights, torch.save(model.state_dict(), path). Or, for a file from somebody you "
    "trust, let this model read pickles: weights_only=false in the register call, weightsOnly: "
    "false in its model-config.yaml, or weights_only=false in config.properties for all models."
)

# As in TorchServe's log.
logger = logging.getLogger("ts.service")


def failure(error: Exception, request_ids: Dict[int, str], again: bool = False) -> Outcome:
    """Log what a handler raised and find its answer.

    Args:
        error: its attribute ``request_index``, if it has one, says which rows it is about.
        request_ids: of the rows that the handler was called with.
        again: these rows have been in a call that failed before.
    """
    code, message, said, level = _answer(error)
    blamed = _blamed(error, len(request_ids))
    named = blamed or (tuple(request_ids) if again else ())
    where = f" (request {', '.join(request_ids[idx] for idx in named)})" if named else ""
    logger.log(level, "%s%s", said, where, exc_info=error)
    return Outcome(code, message, [], blamed)


def told(error: Exception) -> Tuple[int, str]:
    """The code and text that a client gets for what a handler raised."""
    return _answer(error)[:2]


def numbers(index: Any) -> List[int]:
    """A ``request_index`` as numbers in order, each of them once.

    Raises:
        TypeError: it is neither a whole number nor a collection of some.
    """
    several = index if isinstance(index, (list, tuple, set, frozenset, range)) else (index,)
    return sorted({operator.index(number) for number in several})


def text_of(said: object) -> str:
    """The text of an error, or of its message: a ``__str__`` of the user's may fail."""
    try:
        return str(said)
    except Exception as failed:
        return f"<its __str__ raised {type(failed).__name__}>"


def refused_pickle(error: BaseException) -> Optional[str]:
    """Which object `torch.load` did not take from a file, and the cures; None for other errors."""
    text = text_of(error)
    if not isinstance(error, pickle.UnpicklingError) or "weights" not in text.lower():
        return None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [line for line in lines if "nsupported" in line]
    return f"{(named or lines)[0].split('. ')[0].rstrip('.')}. {_CURE}"


def _answer(error: Exception) -> Tuple[int, str, str, int]:
    """Code and text for the client, text and level for the log."""
    if isinstance(error, MemoryError):
        return 507, "Out of resources", "System out of memory", logging.ERROR
    if isinstance(error, PredictionException):
        code, message = _code(error.error_code), text_of(error.message)
        return code, message, "Prediction error", logging.ERROR
    if isinstance(error, UnsupportedOutput):
        return 503, UNSUPPORTED_OUTPUT, UNSUPPORTED_OUTPUT, logging.ERROR
    if "CUDA" in text_of(error):
        return 507, "Out of resources", "CUDA out of memory", logging.ERROR
    return 503, "Prediction failed", "Invoking custom service failed.", logging.WARNING


def _code(value: Any) -> int:
    try:
        code = int(value)
    except (TypeError, ValueError, OverflowError):
        return 500
    # 200 would promise one answer per request, and there is none.
    return code if 100 <= code <= 599 and code != 200 else 500


def _blamed(error: Exception, count: int) -> Tuple[int, ...]:
    index = getattr(error, "request_index", None)
    if index is None:
        return ()
    try:
        named = tuple(numbers(index))
    except TypeError:
        named = ()
    if named and named[0] >= 0 and named[-1] < count:
        return named
    logger.warning(
        "request_index=%r names no requests of a batch of %d: the whole batch fails", index, count
    )
    return ()
