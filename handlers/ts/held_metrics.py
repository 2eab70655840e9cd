"""Metrics of calls that may be repeated: a batch that failed is run again in parts.

`ts.service` holds back what a handler records in such a call. What belongs to requests that are run
again is dropped, since the handler records it anew.
"""

from __future__ import annotations

import contextlib
import logging
import os
from typing import Iterable, Iterator, List

from ts.metrics.caching_metric import MetricRecord
from ts.metrics.caching_metric import logger as metrics


class HeldMetrics:
    """The observations of some calls, in order."""

    def __init__(self) -> None:
        self._records: List[MetricRecord] = []
        self._pid = os.getpid()

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Hold back what is recorded meanwhile; let it go if the worker is about to end."""
        metrics.addFilter(self._take)
        try:
            yield
        except BaseException:
            metrics.removeFilter(self._take)
            self.release()
            raise
        metrics.removeFilter(self._take)

    def add(self, later: HeldMetrics) -> None:
        self._records += later._records

    def drop(self, request_ids: Iterable[str]) -> None:
        """Forget what belongs to any of these requests, be it to others as well."""
        again = set(request_ids)
        kept = [one for one in self._records if again.isdisjoint(one.metric[5].split(","))]
        self._records = kept

    def release(self) -> None:
        """Log what is held."""
        records, self._records = self._records, []
        for record in records:
            metrics.handle(record)

    def _take(self, record: logging.LogRecord) -> bool:
        # A child that the handler forks has no one who would let its metrics go.
        if not isinstance(record, MetricRecord) or os.getpid() != self._pid:
            return True
        self._records.append(record)
        return False
