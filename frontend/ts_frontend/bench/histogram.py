"""Latencies in bounded memory: a log-linear histogram, after HdrHistogram (Tene, 2012).

Values are whole nanoseconds. Up to 256 each has a bucket; from there on each power of two is split
into 128, so that the middle of a bucket is less than 0.4 % away from all that is in it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

_BITS = 8


class Histogram:
    """Counts of latencies, with their exact sum, least and greatest."""

    __slots__ = ("count", "counts", "greatest", "least", "total")

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.count = 0
        self.total = 0
        self.least = 0
        self.greatest = 0

    def add(self, value: int) -> None:
        """Count a latency of ``value`` nanoseconds, 0 or more."""
        shift = max(value.bit_length() - _BITS, 0)
        self.counts[(shift << (_BITS - 1)) + (value >> shift)] += 1
        self.total += value
        if not self.count or value < self.least:
            self.least = value
        if value > self.greatest:
            self.greatest = value
        self.count += 1

    def merge(self, other: Histogram) -> None:
        """Count what another one has counted, too."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.greatest = max(self.greatest, other.greatest)
        self.counts.update(other.counts)
        self.total += other.total
        self.count += other.count

    def mean(self) -> float | None:
        """In nanoseconds; None where nothing was counted."""
        return self.total / self.count if self.count else None

    def percentile(self, percent: float) -> float | None:
        """The least latency that ``percent`` of all don't exceed (nearest rank), in nanoseconds."""
        if not self.count:
            return None
        rank = max(math.ceil(self.count * percent / 100), 1)
        if rank >= self.count:
            return float(self.greatest)
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(max(_middle(bucket), self.least), self.greatest)
        raise AssertionError("fewer in the buckets than were counted")

    def as_json(self) -> dict[str, Any]:
        counts = {str(bucket): count for bucket, count in self.counts.items()}
        return {"counts": counts, "total": self.total, "range": [self.least, self.greatest]}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Histogram:
        self = cls()
        self.counts.update({int(bucket): count for bucket, count in fields["counts"].items()})
        self.count = self.counts.total()
        self.total = fields["total"]
        self.least, self.greatest = fields["range"]
        return self


def _middle(bucket: int) -> float:
    shift = max((bucket >> (_BITS - 1)) - 1, 0)
    low = (bucket - (shift << (_BITS - 1))) << shift
    return low + ((1 << shift) - 1) / 2
