"""What /metrics shows, read by its own grammar, for the tests of the metrics."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

from tests.compat.reference.wire import Reply

HOST = socket.gethostname()
SAMPLE = re.compile(r"(?P<name>\w+)(?:{(?P<labels>(?:\w+=\"[^\"]*\",)+)})? (?P<value>\S+)")


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value by name and labels of every sample; each line must have simpleclient's form."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        labels = re.findall(r'(\w+)="([^"]*)",', match["labels"] or "")
        found[match["name"], frozenset(labels)] = float(match["value"])
    return found


class Page:
    """What /metrics shows."""

    def __init__(self, ask: Callable[..., Reply]) -> None:
        self.text = ask("GET", "/metrics").body.decode()
        self._samples = samples(self.text)

    def value(self, name: str, **labels: str) -> float:
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def head(self, name: str) -> list[str]:
        return [
            line
            for line in self.text.splitlines()
            if line.startswith((f"# HELP {name} ", f"# TYPE {name} "))
        ]
