"""Whose fault an error is: the attribute ``request_index`` of exceptions.

Built-in handlers and envelopes set it here, `ts.failures` reads it. A handler sees the rows that
whoever calls it hands over, so that envelopes and `MicroBatching` number its errors anew.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

from ts.failures import numbers, text_of, told

logger = logging.getLogger(__name__)


def each(
    convert: Callable[[Any], Any],
    rows: Sequence[Any],
    mapping: Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]] = map,
) -> List[Any]:
    """What ``convert`` makes of each row.

    Args:
        mapping: stands in for the builtin `map`, e.g. to call ``convert`` in several threads.

    Raises:
        Exception: the first that ``convert`` raised, once all rows have been tried. It blames all
            rows for which clients are told the same.
    """
    results: List[Any] = []
    failed: List[Tuple[int, Exception]] = []

    def attempt(row: Any) -> Tuple[Any, Optional[Exception]]:
        try:
            return convert(row), None
        except MemoryError:
            raise  # other rows hold the memory, too
        except Exception as error:
            return None, error

    for number, (result, error) in enumerate(mapping(attempt, rows)):
        if error is None:
            results.append(result)
        else:
            failed.append((number, error))
    if failed:
        raise _for_all(failed)
    return results


def renumber(error: BaseException, rows: Sequence[int]) -> None:
    """Turn the rows that an error blames into those of the whole batch.

    Args:
        rows: the number in the batch of each row that the handler got.
    """
    index = getattr(error, "request_index", None)
    if index is None:
        return
    try:
        found = numbers(index)
        if found and found[0] < 0:
            raise IndexError
        _set(error, sorted({rows[number] for number in found}))
    except (TypeError, IndexError):
        _set(error, None)
        logger.warning(
            "request_index=%r names no rows of the handler's %d: the whole batch fails",
            index,
            len(rows),
        )


def _for_all(failed: List[Tuple[int, Exception]]) -> Exception:
    first = failed[0][1]
    blamed = [number for number, error in failed if told(error) == told(first)]
    for number, error in failed[1:]:
        logger.warning("Row %d of the batch: %s: %s", number, type(error).__name__, text_of(error))
    _set(first, blamed)
    return first


def _set(error: BaseException, index: Optional[List[int]]) -> None:
    with contextlib.suppress(AttributeError):  # an exception may be frozen
        error.request_index = index  # type: ignore[attr-defined]
