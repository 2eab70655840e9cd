"""A token key in a file that the operator mounts, as Kubernetes and Docker do with secrets.

`tokens` makes one for each variable that names a file, and looks at it again while it serves:
orchestrators rotate a secret by putting another file in its place.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from ts_frontend.values import ConfigError

log = logging.getLogger(__name__)

MAX_BYTES = 4096  # a header with a longer key would be refused anyway


class MountedKey:
    """One key and the file it is in; `secret` is the last one that could be used.

    Args:
        variable: the environment variable that names the file, for messages.
        path: the file; one line break at its end does not count.

    Raises:
        ConfigError: the file can't be read, or holds no key.
    """

    def __init__(self, variable: str, path: Path) -> None:
        self._name = f"{variable}={path}"
        self._path = path
        self._seen = self._state()
        self.secret = self._read()

    def look(self) -> bool:
        """Read the file again if it has changed; says whether there is another key.

        One that can't be used is told once and the old key stays: half a rotation must not lock
        everybody out.
        """
        state = self._state()
        if state == self._seen:
            return False
        self._seen = state
        try:
            secret = self._read()
        except ConfigError as error:
            log.warning("%s. The key that was read before stays in use.", error)
            return False
        changed = secret != self.secret
        self.secret = secret
        if changed:
            log.info("Another key was read from %s", self._name)
        return changed

    def _state(self) -> tuple[int, ...] | None:
        """What differs once the file, or the link to it, is replaced or written to."""
        try:
            found = os.stat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _read(self) -> str:
        try:
            with self._path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ConfigError(
                f"{self._name}: the key cannot be read: {error.strerror}; "
                "mount a readable file there or unset the variable"
            ) from None
        if len(data) > MAX_BYTES:
            raise ConfigError(f"{self._name}: a key has at most {MAX_BYTES} bytes, this is longer")
        key = data.removesuffix(b"\n").removesuffix(b"\r")
        if not key:
            raise ConfigError(f"{self._name}: the file is empty; write the key into it")
        try:
            secret = key.decode()
        except UnicodeDecodeError:
            raise ConfigError(f"{self._name}: the key is not UTF-8 text") from None
        if not secret.isprintable() or " " in secret:
            raise ConfigError(
                f"{self._name}: the key has blanks, line breaks or control characters in it; "
                "the file must hold one key and nothing else"
            )
        return secret
