"""What the client itself takes: where it has no time left, it measures itself."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Effort:
    """Seconds so far: on a processor, and ready to run but without one (Linux only, else 0)."""

    busy: float
    starved: float

    @classmethod
    def now(cls) -> Self:
        starved = 0.0
        with suppress(OSError, ValueError, IndexError):
            # Time run, time waited for a processor, in nanoseconds; of the event loop's thread.
            starved = int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
        return cls(time.process_time(), starved)

    def since(self, before: Effort, seconds: float) -> Effort:
        """Both in parts of the ``seconds`` that passed."""
        return Effort(
            (self.busy - before.busy) / seconds, (self.starved - before.starved) / seconds
        )
