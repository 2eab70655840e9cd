"""What a worker or a model went through lately, as describe shows it.

`slot` and `startup` write it, `describe` and `failures` read it.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime

KEPT = 10  # three crashes with what came between them
TRACEBACK_LINES = 20


@dataclass(frozen=True, slots=True)
class Event:
    """A change of state.

    Args:
        at: seconds since 1970.
        state: the new state.
        reason: the failure that led to it, on one line; empty where none did.
    """

    at: float
    state: str
    reason: str


class History:
    """The last changes of state, oldest first."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque(maxlen=KEPT)

    def add(self, state: str, reason: str = "") -> None:
        """The state is a new one from now on."""
        self._events.append(Event(time.time(), state, reason.partition("\n")[0]))

    @property
    def troubled(self) -> bool:
        """Whether a failure is among them: else there is nothing to tell."""
        return any(event.reason for event in self._events)

    def body(self) -> list[dict[str, str]]:
        """The changes as JSON has them."""
        return [
            {"time": timestamp(one.at), "state": one.state}
            | ({"reason": one.reason} if one.reason else {})
            for one in self._events
        ]


def timestamp(seconds: float) -> str:
    """A time in UTC, in the form of TorchServe's ``startTime``."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def tail(traceback: str) -> list[str]:
    """The end of a traceback, which is where the cause stands, line by line."""
    return traceback.rstrip().splitlines()[-TRACEBACK_LINES:]
