"""Token authorization: the keys, their file and the check of a request (reference §8.13).

`server` makes one `Tokens` unless authorization is disabled; the HTTP router and gRPC check with
it, `management` refreshes through it.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from ts_frontend.errors import InvalidKey
from ts_frontend.http.mounted_key import MountedKey
from ts_frontend.values import ConfigError

Kind = Literal["management", "inference", "API"]
KINDS: tuple[Kind, ...] = ("management", "inference", "API")
# An operator can fix a key here, or name a file with it in the variable of that name with _FILE
# behind it; it then never expires and is not written to the key file.
VARIABLES: dict[Kind, str] = {
    "management": "TS_MANAGEMENT_TOKEN",
    "inference": "TS_INFERENCE_TOKEN",
    "API": "TS_API_TOKEN",
}
# How often the files of mounted keys are looked at, at most.
LOOK_SECONDS = 1.0
REFUSED = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
REFRESH_REFUSED = (
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
)
_BEARER = re.compile(rb"Bearer\s+(\S+)")


class KeyFileError(Exception):
    """The key file can't be written; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Key:
    """A secret and its end, in seconds since 1970; None for a key that doesn't expire."""

    secret: str
    expires: float | None
    header: bytes = field(init=False, repr=False)  # the Authorization header that all send

    def __post_init__(self) -> None:
        object.__setattr__(self, "header", b"Bearer " + self.secret.encode())


class Tokens:
    """The three keys of a server: management, inference, and API to renew the other two.

    Args:
        path: the key file, ``<working directory>/key_file.json`` in TorchServe.
        expiration_minutes: life of the management and inference keys; fractions are allowed.
        fixed: keys given from outside, for instance by `fixed_keys`.
        mounted: keys in files, for instance from `mounted_keys`; fixed until a file changes.
    """

    def __init__(
        self,
        path: Path,
        expiration_minutes: float = 60.0,
        fixed: Mapping[Kind, str] | None = None,
        clock: Callable[[], float] = time.time,
        *,
        mounted: Mapping[Kind, MountedKey] | None = None,
    ) -> None:
        self.path = path
        self._life = expiration_minutes * 60.0
        self._clock = clock
        self._mounted = dict(mounted or {})
        self._fixed = {**(fixed or {}), **{kind: one.secret for kind, one in self._mounted.items()}}
        self._looked = 0.0
        self._keys: dict[Kind, Key] = {}
        self._written: int | None = None  # inode of the key file
        # The key that fitted last, and the header that had it.
        self._opened: Key | None = None
        self._opener = ""

    def open(self) -> None:
        """Make the keys and write the key file, for its owner's eyes only.

        Raises:
            KeyFileError: the file can't be written.
        """
        for kind in KINDS:
            self._keys[kind] = self._make(kind)
        self._write()

    def close(self) -> None:
        """Remove the key file, if it is still the one this server wrote."""
        written, self._written = self._written, None
        with suppress(OSError):
            if written is not None and self.path.stat().st_ino == written:
                self.path.unlink()

    def check(self, kind: Kind, header: str, *, refusal: str = REFUSED) -> None:
        """Check an ``Authorization`` header ("" when there is none) against a key.

        Raises:
            InvalidKey: missing, malformed, wrong or expired (TorchServe's 400).
        """
        if self._mounted:
            self._look()
        key = self._keys.get(kind)
        # A connection asks with the same string again and again: that is still the same.
        if key is None or (
            not (key is self._opened and header is self._opener)
            and not _opens(header.encode("utf-8", "surrogateescape"), key.header)
        ):
            raise InvalidKey(refusal)
        self._opened, self._opener = key, header
        if key.expires is not None and self._clock() >= key.expires:
            raise InvalidKey(refusal)

    def refresh(self, kind: str | None, header: str) -> None:
        """Renew the management or inference key for the holder of the API key (§5.8).

        Raises:
            InvalidKey: wrong API key, or a ``kind`` that can't be renewed.
            KeyFileError: the new key can't be written.
        """
        self.check("API", header, refusal=REFRESH_REFUSED)
        for renewable in KINDS[:2]:
            if renewable == kind:
                return self._renew(renewable)
        raise InvalidKey(REFRESH_REFUSED)

    def _look(self) -> None:
        """Take over keys whose files have changed; costs a look at each file once a second."""
        now = self._clock()
        if abs(now - self._looked) < LOOK_SECONDS:
            return
        self._looked = now
        for kind, mounted in self._mounted.items():
            if mounted.look():
                self._fixed[kind] = mounted.secret
                self._keys[kind] = self._make(kind)

    def _renew(self, kind: Kind) -> None:
        before = self._keys[kind]
        self._keys[kind] = self._make(kind)
        try:
            self._write()
        except KeyFileError:
            # A key that nobody can read must not replace one that still works.
            self._keys[kind] = before
            raise

    def _make(self, kind: Kind) -> Key:
        if kind in self._fixed:
            return Key(self._fixed[kind], None)
        expires = None if kind == "API" else self._clock() + self._life
        return Key(secrets.token_urlsafe(6), expires)

    def _write(self) -> None:
        entries = {kind: _entry(self._keys[kind]) for kind in KINDS if kind not in self._fixed}
        if not entries:
            return
        # A new file, moved into place: no reader sees half of it, and no one else's file or link
        # of that name is written through.
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with suppress(FileNotFoundError):
                temporary.unlink()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with open(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as stream:
                stream.write(json.dumps(entries, indent=2) + "\n")
                inode = os.fstat(stream.fileno()).st_ino
            temporary.replace(self.path)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink()
            raise KeyFileError(
                f"Cannot write the key file {self.path}: {error.strerror}. Start the server in a "
                f"folder it may write to, give all keys by {', '.join(VARIABLES.values())}, or "
                "switch token authorization off with --disable-token-auth."
            ) from error
        self._written = inode


def fixed_keys(environ: Mapping[str, str]) -> dict[Kind, str]:
    """Return the keys that the environment fixes, by kind."""
    return {kind: environ[name] for kind, name in VARIABLES.items() if environ.get(name)}


def mounted_keys(environ: Mapping[str, str]) -> dict[Kind, MountedKey]:
    """Return the keys that are in files which the environment names, by kind.

    Raises:
        ConfigError: a file holds no usable key, or the key is given in a variable as well.
    """
    found: dict[Kind, MountedKey] = {}
    for kind, name in VARIABLES.items():
        variable = f"{name}_FILE"
        if not environ.get(variable):
            continue
        if environ.get(name):
            raise ConfigError(f"{name} and {variable} are both set: unset one of them")
        found[kind] = MountedKey(variable, Path(environ[variable]))
    return found


def _opens(given: bytes, expected: bytes) -> bool:
    """Compare headers, in a time that tells nothing; any white space may follow ``Bearer``."""
    if hmac.compare_digest(given, expected):
        return True
    match = _BEARER.fullmatch(given)
    return match is not None and hmac.compare_digest(b"Bearer " + match.group(1), expected)


def _entry(key: Key) -> dict[str, str]:
    if key.expires is None:
        return {"key": key.secret}
    end = datetime.fromtimestamp(key.expires, UTC).isoformat(timespec="microseconds")
    return {"key": key.secret, "expiration time": end.replace("+00:00", "Z")}
