"""Runs blocking work of unknown length, each in a daemon thread of its own.

asyncio's pool has few threads, which describe and /metrics need, and the process waits for all of
them at its end. `store`, `download`, `command`, `snapshot` and `watch` use this one instead.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")


def in_own_thread(work: Callable[[], T], name: str) -> asyncio.Future[T]:
    """Start some work; cancelling the result forgets the thread, which nobody has to wait for.

    Args:
        name: of the thread, for whoever looks at the process.
    """
    return asyncio.get_running_loop().run_in_executor(_OwnThread(name), work)


class _OwnThread(Executor):
    def __init__(self, name: str) -> None:
        self._name = name

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()

        def run() -> None:
            try:
                result = fn(*args, **kwargs)
            except Exception as error:
                future.set_exception(error)
            except BaseException as error:  # a SystemExit of a plugin's must not end the server
                future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
            else:
                future.set_result(result)

        threading.Thread(target=run, name=self._name, daemon=True).start()
        return future
