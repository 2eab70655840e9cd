"""Figures of the machine from a program of the operator's own, as `system_metrics_cmd` names it.

`system` runs it in place of its own collecting. What it is told and what it has to print is
TorchServe's (reference §6.5): ``python WORDS`` reads the workers' process ids from its input and
prints one figure a line, ``CPUUtilization.Percent:0.0|#Level:Host|#hostname:h,1717105307``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from ts_frontend.core.metric_lines import metric_of

log = logging.getLogger(__name__)

Dimensions = tuple[tuple[str, str], ...]


class SystemCommand:
    """Runs the program.

    Args:
        words: what follows the interpreter on the command line, split at blanks as there.
        pids: asked before each run.
        limit: seconds for one run.
    """

    def __init__(self, words: str, pids: Callable[[], Iterable[int]], limit: float) -> None:
        self._argv = [sys.executable, *words.split()]
        self._pids = pids
        self._limit = limit
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._said = ""

    def figures(self) -> list[tuple[str, str, float, Dimensions]]:
        """Run it once; blocks. Name, unit, value and dimensions of each figure; none, and a
        warning, where it fails."""
        try:
            output = self._run()
        except (OSError, subprocess.SubprocessError) as error:
            self._complain(str(error))
            return []
        figures = []
        for line in output.decode(errors="replace").splitlines():
            if not line.strip():  # the memory of workers follows, which describe asks itself
                break
            metric = metric_of(f"[METRICS]{line}")
            if metric is None:
                self._complain(f"it printed {line!r}, which is no metric")
            else:
                figures.append((metric.name, metric.unit, metric.value, metric.dimensions))
        return figures

    def close(self) -> None:
        """End a run that is under way, from another thread. There will be no further one."""
        self._closed = True
        self._kill()

    def _run(self) -> bytes:
        told = ",".join(map(str, self._pids())) + "\n"
        # In the server's session, which the reaper of orphans leaves alone.
        process = subprocess.Popen(
            self._argv,
            cwd=_home(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        self._process = process
        if self._closed:
            self._kill()
        try:
            output, _ = process.communicate(told.encode(), timeout=self._limit)
        except subprocess.TimeoutExpired:
            self._kill()
            process.communicate()
            raise
        if process.returncode and not self._closed:
            last = output.decode(errors="replace").strip().rpartition("\n")[2]
            raise subprocess.SubprocessError(f"it ended with {process.returncode}: {last}")
        return output

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def _complain(self, text: str) -> None:
        # Each minute the same would bury the rest of the log.
        if text != self._said:
            self._said = text
            log.warning("system_metrics_cmd=%s: %s", " ".join(self._argv[1:]), text)


def _home() -> Path:
    """The folder that holds ``ts``: TorchServe's own command is a path below it."""
    found = importlib.util.find_spec("ts")
    origin = found.origin if found is not None else None
    return Path(origin).parents[1] if origin else Path.cwd()
