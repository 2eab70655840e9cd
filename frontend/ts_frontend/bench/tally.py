"""What one level gave: counted by `load`, added up over processes, shown by `report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ts_frontend.bench.histogram import Histogram


@dataclass(slots=True)
class Tally:
    """Counts of one level.

    Args:
        latencies: of good answers, in nanoseconds.
        errors: all other outcomes by kind, and in ``samples`` what the first of a kind said.
        sent: bytes of bodies; ``received`` those of the good answers.
        seconds: how long it was counted.
        busy: the processor time the client took, in parts of that; ``starved`` the time it waited
            for a processor. One value for each process.
        waiting: requests that had no answer in the end, those not sent yet included; ``oldest``
            of them was due so many seconds ago.
        interrupted: it ended before its time.
    """

    latencies: Histogram = field(default_factory=Histogram)
    errors: Counter[str] = field(default_factory=Counter)
    samples: dict[str, str] = field(default_factory=dict)
    sent: int = 0
    received: int = 0
    seconds: float = 0.0
    busy: list[float] = field(default_factory=list)
    starved: list[float] = field(default_factory=list)
    waiting: int = 0
    oldest: float = 0.0
    interrupted: bool = False

    @property
    def count(self) -> int:
        """Good answers and errors."""
        return self.latencies.count + self.errors.total()

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.latencies.count / self.seconds if self.seconds else 0.0

    def good(self, nanoseconds: int, sent: int, received: int) -> None:
        """Count an answer as it should be."""
        self.latencies.add(nanoseconds)
        self.sent += sent
        self.received += received

    def bad(self, kind: str, sent: int, text: str = "") -> None:
        """Count anything else."""
        self.errors[kind] += 1
        self.samples.setdefault(kind, text)
        self.sent += sent

    def merge(self, other: Tally) -> None:
        """Add what another process has counted in the same time."""
        self.latencies.merge(other.latencies)
        self.errors.update(other.errors)
        self.samples = {**other.samples, **self.samples}
        self.sent += other.sent
        self.received += other.received
        self.seconds = max(self.seconds, other.seconds)
        self.busy += other.busy
        self.starved += other.starved
        self.waiting += other.waiting
        self.oldest = max(self.oldest, other.oldest)
        self.interrupted = self.interrupted or other.interrupted

    def as_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in self.__slots__}
        return {**plain, "latencies": self.latencies.as_json(), "errors": dict(self.errors)}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Tally:
        own = {
            "latencies": Histogram.from_json(fields["latencies"]),
            "errors": Counter(fields["errors"]),
        }
        return cls(**{**fields, **own})
