"""The file that tells `--start` and `--stop` which process serves. Used by `cli` only.

Path and content are TorchServe's: ``<temp folder>/.model_server.pid``, the decimal pid, no newline.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from enum import Enum
from pathlib import Path

_NAMES = ("torchserve", "torchserve-py", "torchserve.exe", "torchserve-py.exe")
_JAVA = "org.pytorch.serve.ModelServer"
_NOT_SERVING = {"--stop", "--version", "-v", "--help", "-h"}
# /proc gives the boot time in whole seconds, so a start time may be off by one.
_CLOCK_SLACK = 2.0


class Found(Enum):
    """What the pid file is worth."""

    NOTHING = "no file, or no number in it"
    ORPHAN = "no such process"
    OTHER = "the process is not a server: its number was used again"
    SERVER = "a running server"


class PidFile:
    """A pid file at a given path."""

    def __init__(self, path: Path | None = None) -> None:
        self.path = path or Path(tempfile.gettempdir()) / ".model_server.pid"

    def read(self) -> int | None:
        """The pid in the file, or None."""
        try:
            return int(self.path.read_text("ascii"))
        except (OSError, ValueError):
            return None

    def find(self) -> tuple[Found, int]:
        """Look up the process; the pid is 0 for `Found.NOTHING`.

        A number alone proves little: in a container the next server, or something else, gets the
        same one. So the process must also look like a server and be older than the file.
        """
        pid = self.read()
        if pid is None or pid <= 0:
            return Found.NOTHING, 0
        import psutil

        try:
            process = psutil.Process(pid)
            argv = process.cmdline()
            written = self.path.stat().st_mtime
            reused = process.create_time() > written + _CLOCK_SLACK
        except psutil.AccessDenied:
            return Found.OTHER, pid
        except (psutil.Error, OSError):
            return Found.ORPHAN, pid
        if reused or pid in (os.getpid(), os.getppid()) or not _serves(argv):
            return Found.OTHER, pid
        return Found.SERVER, pid

    def write(self, pid: int) -> None:
        """Write the file in one step; a reader never sees half a number.

        Raises:
            OSError: the temp folder can't be written, or holds another user's file.
        """
        handle, name = tempfile.mkstemp(prefix=".model_server.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(str(pid))
            os.chmod(name, 0o644)
            os.replace(name, self.path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise

    def remove(self, pid: int | None = None) -> None:
        """Delete the file; with ``pid`` only if it still holds that one."""
        if pid is None or self.read() == pid:
            with contextlib.suppress(OSError):
                self.path.unlink()


def _serves(argv: list[str]) -> bool:
    """Whether a command line is that of a server, TorchServe's Java one included."""
    if _JAVA in argv:
        return True
    if _NOT_SERVING.intersection(argv):
        return False
    # The interpreter and its options come before the command.
    return any(os.path.basename(word) in _NAMES or "ts_frontend" in word for word in argv[:5])
