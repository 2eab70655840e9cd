"""`MicroBatching`: a batch in small parts, with a handler's steps running side by side.

While the model computes one part, the next is already being prepared. A handler opts in with
``self.handle = MicroBatching(self)`` in its `__init__`.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from typing import Any, Dict, List, Optional

from ts.blame import renumber

HANDLER_METHODS = ("preprocess", "inference", "postprocess")
_FOLLOWING = {"preprocess": "inference", "inference": "postprocess"}


class _Batch:
    """The parts of one call on their way through the steps, and the caller that waits for them.

    Args:
        rows: how many the call has.
        size: rows of a part; the last one may have fewer.
    """

    def __init__(self, rows: int, size: int) -> None:
        self.parts = [range(rows)[start : start + size] for start in range(0, rows, size)]
        self.results: List[Any] = [None] * len(self.parts)
        self.error: Optional[BaseException] = None
        self._missing = len(self.parts)
        self._lock = threading.Lock()
        self._done = threading.Event()

    def arrived(self, index: int, result: Any) -> None:
        """Part ``index`` has been through all steps."""
        self.results[index] = result
        with self._lock:
            self._missing -= 1
            if not self._missing:
                self._done.set()

    def failed(self, index: int, error: BaseException) -> None:
        """A step raised for part ``index``: the first error is the caller's, the other parts are
        not computed."""
        with self._lock:
            if self.error is None:
                renumber(error, self.parts[index])
                self.error = error
            self._done.set()

    def wait(self) -> List[Any]:
        self._done.wait()
        if self.error is not None:
            raise self.error
        return [value for result in self.results for value in result]


class MicroBatching:
    """Stands in for a handler's `handle`.

    Args:
        parent_handler: has the methods of `BaseHandler`.
        micro_batch_size: rows in a part; the last part may have fewer. May be changed between
            batches.
        parallelism: threads per step, ``{"preprocess": 1, "inference": 1, "postprocess": 1}``
            where nothing else is said. More than one for a step needs a handler whose step may run
            twice at a time.

    The threads start with the first batch. An error in a step is raised to the caller; with
    TorchServe the request hangs until the worker is killed.
    """

    def __init__(
        self,
        parent_handler: Any,
        micro_batch_size: int = 1,
        parallelism: Optional[Dict[str, int]] = None,
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self.terminate = threading.Event()
        self.thread_local_data = threading.local()
        self.queues: Dict[str, Any] = {}
        self.thread_groups: Dict[str, List[threading.Thread]] = {}
        self._parallelism = dict.fromkeys(HANDLER_METHODS, 1)
        self._lock = threading.Lock()
        self.parallelism = parallelism or {}

    @property
    def parallelism(self) -> Dict[str, int]:
        """Threads per step, as a copy; assigning a dict changes the steps that it names."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Dict[str, int]) -> None:
        unknown = set(parallelism) - set(HANDLER_METHODS)
        assert not unknown, f"parallelism has {sorted(unknown)}; steps are {HANDLER_METHODS}"
        for step, threads in parallelism.items():
            if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
                raise ValueError(f"parallelism of {step} is {threads!r}; give 1 thread or more")
        with self._lock:
            self._stop()
            self._parallelism.update(parallelism)
            self._prepare_threads()

    def __call__(self, data: List[Any], context: Any) -> Any:
        """Answer a batch as `BaseHandler.handle` does, but for the parts."""
        start = time.perf_counter()
        handler = self.handler
        handler.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = handler._infer_with_profiler(data)
        elif handler._is_describe():
            output = [handler.describe_handle()]
        elif handler._is_explain():
            output = handler.explain_handle(handler.preprocess(data), data)
        else:
            output = self.handle(data)
        elapsed = round((time.perf_counter() - start) * 1000, 2)
        context.metrics.add_time("HandlerTime", elapsed, None, "ms")
        return output

    def handle(self, data: List[Any]) -> List[Any]:
        """Preprocess, inference and postprocess of ``data``, in parts; one list, in order.

        Raises:
            ValueError: `micro_batch_size` is below 1.
            BaseException: what a step raised; rows that it blames are numbered as in ``data``.
        """
        size = self.micro_batch_size
        if size < 1:
            raise ValueError(f"micro_batch_size is {size}; give 1 or more")
        batch = _Batch(len(data), size)
        if not batch.parts:
            return []
        # Under the lock, so that no part falls behind the threads' last one in a shutdown.
        with self._lock:
            self._start()
            for index, rows in enumerate(batch.parts):
                part = data[rows.start : rows.stop]
                self.queues[HANDLER_METHODS[0]].put((batch, index, part))
        return batch.wait()

    def get_micro_batch_idx(self) -> Optional[int]:
        """The number of the part that the calling thread is at; None outside a step."""
        return getattr(self.thread_local_data, "micro_batch_idx", None)

    def shutdown(self) -> None:
        """End the threads once they are through with what waits; a later batch starts new ones."""
        with self._lock:
            self._stop()
            self._prepare_threads()

    def _stop(self) -> None:
        self.terminate.set()
        # Step by step: what one still hands on must not come behind the next one's end.
        for step in HANDLER_METHODS:
            running = [t for t in self.thread_groups.get(step, ()) if t.ident is not None]
            for _ in running:
                self.queues[step].put(None)
            for thread in running:
                thread.join()

    def _prepare_threads(self) -> None:
        self.queues = {step: queue.Queue() for step in HANDLER_METHODS}
        self.thread_groups = {
            step: [self._thread(step, number) for number in range(self._parallelism[step])]
            for step in HANDLER_METHODS
        }

    def _thread(self, step: str, number: int) -> threading.Thread:
        # A daemon: a script that forgets the shutdown must still end.
        name = f"micro-batch-{step}-{number}"
        return threading.Thread(target=self._work, args=(step, self.queues), name=name, daemon=True)

    def _start(self) -> None:
        self.terminate.clear()
        for group in self.thread_groups.values():
            for thread in group:
                if thread.ident is None:
                    thread.start()

    def _work(self, step: str, queues: Dict[str, Any]) -> None:
        following = _FOLLOWING.get(step)
        while True:
            item = queues[step].get()
            if item is None:
                return
            batch, index, part = item
            if batch.error is not None:
                continue  # nobody waits for the rest
            self.thread_local_data.micro_batch_idx = index
            try:
                result = getattr(self.handler, step)(part)
            except BaseException as error:  # SystemExit too: it is the caller's to obey
                batch.failed(index, error)
                continue
            finally:
                self.thread_local_data.micro_batch_idx = None
            if following is None:
                batch.arrived(index, result)
            else:
                queues[following].put((batch, index, result))
