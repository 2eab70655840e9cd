"""The folder of one server under ``<temp>/models``, and the removal of those of dead servers.

`store` unpacks into it. The folder itself carries a `lifelock`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import threading
import uuid
from pathlib import Path

from ts_frontend.core import lifelock

_NAME = re.compile(r"\d+-[0-9a-f]{32}")


class OwnFolder:
    """Made for the first model and removed with the last. Its methods block: call them in a thread.

    Args:
        models: ``<temp>/models``, which servers share.
    """

    def __init__(self, models: Path) -> None:
        self._models = models
        self._guard = threading.Lock()
        self._roots: set[Path] = set()
        self._path: Path | None = None
        self._lock = -1

    def enter(self) -> Path:
        """A path for one model's files, which does not exist yet.

        Raises:
            OSError: the folder can't be made.
        """
        with self._guard:
            while self._path is None:
                self._make()
            root = self._path / uuid.uuid4().hex
            self._roots.add(root)
            return root

    def leave(self, root: Path) -> None:
        """The files under ``root`` have been deleted."""
        with self._guard:
            self._roots.discard(root)
            if self._roots or self._path is None:
                return
            # What could not be deleted keeps the folder, for the next server to try.
            with contextlib.suppress(OSError):
                self._path.rmdir()
            os.close(self._lock)
            self._path = None

    def clear_stale(self) -> None:
        """Delete what servers of the same user left that were killed."""
        lifelock.remove_left(self._models, _NAME, shutil.rmtree)

    def _make(self) -> None:
        path = self._models / f"{os.getpid()}-{uuid.uuid4().hex}"
        path.mkdir(parents=True)
        if sys.platform == "win32":
            self._path, self._lock = path, os.open(os.devnull, os.O_RDONLY)
            return
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # another server that starts took it for a dead one's
            return
        # Without locks nobody else can take it either.
        if lifelock.lock(lock) is False or not path.exists():  # as above, just now
            os.close(lock)
            return
        self._path, self._lock = path, lock
