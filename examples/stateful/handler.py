"""Keeps something between requests: the running mean of each session's numbers."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from ts.context import Context
from ts.utils.util import PredictionException

HEADER = "X-Session"


@dataclass
class Session:
    """What is known of one session."""

    count: int = 0
    mean: float = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        self.mean += (value - self.mean) / self.count


class RunningMean:
    """Answers a number with the count and the mean of all its session's numbers so far.

    The sessions live in this worker: a second worker would know nothing of them, so
    model-config.yaml allows one, and they end with it. What must outlive a worker belongs into
    a database.
    """

    def initialize(self, context: Context) -> None:
        self.sessions: OrderedDict[str, Session] = OrderedDict()
        # Clients come and go without saying so: the oldest sessions make room.
        self.limit: int = context.model_yaml_config["handler"]["sessions"]

    def handle(self, data: list[dict[str, Any]], context: Context) -> list[dict[str, Any]]:
        """One request after another, in the order of their arrival.

        All are looked at before the first one counts: when one is refused, the others are handed
        in again, and must not count twice.
        """
        asked = [(_session(context, index), _number(row, index)) for index, row in enumerate(data)]
        return [self._add(name, value) for name, value in asked]

    def _add(self, name: str, value: float) -> dict[str, Any]:
        session = self.sessions.setdefault(name, Session())
        self.sessions.move_to_end(name)
        if len(self.sessions) > self.limit:
            self.sessions.popitem(last=False)
        session.add(value)
        return {"count": session.count, "mean": session.mean}


def _session(context: Context, index: int) -> str:
    name = context.get_request_header(index, HEADER)
    if not name:
        raise PredictionException(f"Send a header {HEADER}", 400, request_index=index)
    return str(name)


def _number(row: dict[str, Any], index: int) -> float:
    try:
        return float(row.get("data") or row.get("body"))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise PredictionException("Send a number as text", 400, request_index=index) from error
