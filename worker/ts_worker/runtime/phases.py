"""How long the steps of a handler take. Called by `run_handler`."""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import time
from typing import Any, Callable, Dict, Iterator, List

STEPS = ("preprocess", "inference", "explain_handle", "postprocess")
_TOTAL = "total"


class Phases:
    """Times the steps that a handler has, round by round, in milliseconds.

    Args:
        handler: the handler's object; None, or one without these steps, has a total only.
    """

    def __init__(self, handler: Any) -> None:
        self.rounds: List[Dict[str, float]] = []
        for name in STEPS:
            method = getattr(handler, name, None)
            if callable(method):
                with contextlib.suppress(AttributeError):  # slots
                    setattr(handler, name, self._timed(name, method))

    @contextlib.contextmanager
    def round(self) -> Iterator[None]:
        """Times of all that runs inside are added up."""
        self.rounds.append({})
        begun = time.perf_counter()
        yield
        self._add(_TOTAL, begun)

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                self._add(name, begun)

        return timed

    def _add(self, name: str, begun: float) -> None:
        _wait_for_gpu()
        times = self.rounds[-1]
        times[name] = times.get(name, 0.0) + (time.perf_counter() - begun) * 1000


def time_table(loaded: float, rounds: List[Dict[str, float]]) -> str:
    """Lines of name and milliseconds; with several rounds minimum, median and maximum."""
    lines = [f"{'load':<12} {loaded:>10.2f} ms"]
    if len(rounds) > 1:
        lines.append(f"{f'{len(rounds)} rounds':<12} {'min':>10} {'median':>10} {'max':>10}")
    for name in (*STEPS, _TOTAL):
        times = [each[name] for each in rounds if name in each]
        if len(rounds) == 1:
            lines += [f"{name:<12} {time:>10.2f} ms" for time in times]
        elif times:
            low, middle, high = min(times), statistics.median(times), max(times)
            lines.append(f"{name:<12} {low:>10.2f} {middle:>10.2f} {high:>10.2f} ms")
    return "\n".join(lines)


def _wait_for_gpu() -> None:
    # Kernels run on after the call that started them; their time belongs to its step.
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
