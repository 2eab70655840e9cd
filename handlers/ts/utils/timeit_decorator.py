"""`@timeit` prints how long each call of a function takes."""

from __future__ import annotations

import functools
import time
from typing import Any, Callable, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def timeit(function: Function) -> Function:
    """Print the function's name and its milliseconds after each call. TorchServe's fails since
    Python 3.8."""

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            print(f"{function.__name__}: {(time.perf_counter() - start) * 1000:.2f} ms", flush=True)

    return timed  # type: ignore[return-value]
