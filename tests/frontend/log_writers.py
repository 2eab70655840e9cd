"""Threads that write to the logs at the same time, for test_logs and test_logs_json."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

from ts_frontend.log_lines import Fields, Source
from ts_frontend.logs import Logs

WRITERS = "abcd"


class Said:
    """A metric's line as it is given."""

    def __init__(self, line: str, fields: Fields = ()) -> None:
        self._line = line
        self._fields = fields

    def text(
        self, stamp: str, millisecond: int, source: Source, values: Sequence[object]
    ) -> tuple[str, str]:
        everywhere = f"{stamp}{source.head}{self._line}\n" if source.everywhere else ""
        return f"{stamp}{source.brief}{self._line}\n", everywhere

    def parts(self, second: int, values: Sequence[object]) -> Iterator[tuple[str, Fields]]:
        yield self._line, self._fields


def write_at_once(logs: Logs, count: int) -> dict[str, list[str]]:
    """Write access lines from a thread for each of `WRITERS`; what each wrote, in its order."""
    lines = {name: [f"{name} {number}" for number in range(count)] for name in WRITERS}

    def write(name: str) -> None:
        for line in lines[name]:
            logs.access(line)

    threads = [threading.Thread(target=write, args=(name,)) for name in WRITERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    logs.flush()
    return lines


def by_writer(lines: Iterable[str]) -> dict[str, list[str]]:
    """What a file has of each of `WRITERS`, in the file's order."""
    found = list(lines)
    return {name: [line for line in found if line.startswith(name)] for name in WRITERS}
