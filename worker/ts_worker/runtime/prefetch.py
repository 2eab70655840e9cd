"""Prepares the next batches in a thread while the handler is at an earlier one.

`loop` makes one for a model whose yaml has `prefetch`; the thread that reads (`Channel.read_ahead`)
hands it the batches that have to wait, `answers` asks for their rows.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict

from ts_worker.messages import Predict
from ts_worker.runtime.rows import Rows, rows_of


class Prefetch:
    """Decodes batches ahead, and runs the handler's `preprocess` on them where it may.

    Args:
        decode: as in `rows_of`.
    """

    def __init__(self, service: Any, decode: bool) -> None:
        self._service = service
        self._decode = decode
        self._begun: Dict[int, Future[Rows]] = {}  # by batch id
        # One thread: batches are prepared in the order in which they will run.
        self._pool = ThreadPoolExecutor(1, "ts-prefetch")

    def begin(self, batch: Predict) -> None:
        """Prepare a batch that has to wait."""
        self._begun[batch.batch_id] = self._pool.submit(self._prepare, batch)

    def rows(self, batch: Predict) -> Rows:
        """The rows of the batch whose turn it is.

        What could not be prepared in time is decoded here and now, and what went wrong is raised
        as it would be without a thread.
        """
        future = self._begun.pop(batch.batch_id, None)
        if future is None or future.cancel():
            return rows_of(batch.requests, self._decode)
        return future.result()

    def _prepare(self, batch: Predict) -> Rows:
        headers, rows, ids = rows_of(batch.requests, self._decode)
        return headers, self._service.prepare(headers, rows), ids
