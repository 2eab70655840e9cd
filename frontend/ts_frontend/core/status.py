"""How each model version stands right now: its queue, its requests, its workers.

`metrics` asks when /metrics is read; nothing here is kept up to date between two readings.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ts_frontend.core.catalog import Catalog
from ts_frontend.core.model import ModelVersion
from ts_frontend.core.slot import Slot, State

STATES = tuple(state.name.lower() for state in State)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker's place; ``pids`` is empty while no process is in it. ``state`` is of `STATES`."""

    id: str
    name: str
    pids: tuple[int, ...]
    state: str


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One registered version.

    ``queued`` requests were accepted and sent to no worker yet, the oldest ``oldest_wait`` seconds
    ago; ``in_flight`` ones are with workers. ``workers`` include those that are being ended.
    """

    model: str
    version: str
    default: bool
    queued: int
    oldest_wait: float
    in_flight: int
    workers: tuple[WorkerStatus, ...]


class Status:
    """Looks at the versions of a catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def registered(self) -> set[tuple[str, str]]:
        """Name and version of all that is registered."""
        return {(model.name, model.version) for model in self._catalog}

    def versions(
        self, running: Callable[[str, str], Collection[Slot]] = lambda model, version: ()
    ) -> list[VersionStatus]:
        """Look at every version.

        Args:
            running: the slots of a model and version that have not ended, as a `VersionMeter` was
                told: those that are being ended are no longer listed by their version.
        """
        now = time.monotonic()
        defaults = set(map(id, self._catalog.defaults()))
        return [
            _look(model, now, running(model.name, model.version), default=id(model) in defaults)
            for model in self._catalog
        ]


def _look(
    model: ModelVersion, now: float, running: Collection[Slot], *, default: bool
) -> VersionStatus:
    # In the order of their ids, each once; a slot that was given up no longer runs.
    slots = {slot.id: slot for slot in sorted((*running, *model.slots), key=_number)}.values()
    queued, arrived = model.queue.backlog()
    return VersionStatus(
        model.name,
        model.version,
        default,
        queued,
        0.0 if arrived is None else max(0.0, now - arrived),
        sum(slot.in_flight for slot in slots),
        tuple(WorkerStatus(one.id, one.name, one.pids, one.state.name.lower()) for one in slots),
    )


def _number(slot: Slot) -> tuple[int, str]:
    return len(slot.id), slot.id
