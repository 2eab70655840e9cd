"""Copies one archive from an http(s), s3 or file URL into the model store, whole or not at all.

`store` makes one per registration that names a URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from email.message import Message
from http.client import HTTPException
from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit

from ts_frontend.core import part_file
from ts_frontend.core.bucket import open_object
from ts_frontend.core.own_thread import in_own_thread
from ts_frontend.core.web import open_web
from ts_frontend.errors import DownloadFailed, Internal

# What is read at once, at most: between two pieces the thread hears that it is given up.
_CHUNK = 1 << 16
_SOCKET_TIMEOUT = 60.0  # seconds without a byte
# A download that brings less is given up: each byte for itself may be in time.
STALL_SECONDS = 120.0
_STALL_BYTES = 1 << 16
# So long a thread that was given up may take to end. Looking up a host's name, it does not hear it.
LEAVE_SECONDS = 2.0


class Source(Protocol):
    """Where the bytes come from."""

    def read1(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


class Download:
    """One download.

    Args:
        url: an http, https, s3 or file URL that has been checked already.
        target: appears when the last byte is there; must not exist.
        check: raises for a URL that is not allowed; asked again for each redirect.
        max_bytes: give up on a longer file.
        signed: sign an http request for S3 with the AWS credentials of the environment.
    """

    def __init__(
        self,
        url: str,
        target: Path,
        check: Callable[[str], None],
        max_bytes: int,
        *,
        signed: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._url = url
        self._target = target
        self._check = check
        self._max_bytes = max_bytes
        self._signed = signed
        self._environ = environ
        self._received = 0
        # What the thread and who gives it up both change.
        self._guard = threading.Lock()
        self._given_up: str | None = None  # and why
        self._made: list[Path] = []
        self._line: socket.socket | None = None

    async def run(self) -> None:
        """Download, in a thread of its own. Cancelling leaves nothing behind, and waits for no
        server that is slow.

        Raises:
            DownloadFailed: with the URL in TorchServe's words, and the cause.
            ModelNotFound: a redirect leads to a URL that is not allowed.
            Internal: another download put the file there first.
        """
        running = in_own_thread(self._run, "download")
        try:
            cause = await self._watch(running)
            if cause is not None:
                await self._give_up(running, cause)
                if not running.done():
                    raise self._failed(cause)
            running.result()
        except asyncio.CancelledError:
            await self._give_up(running, "the registration was given up")
            raise
        finally:
            if not running.cancel():
                running.exception()

    async def _watch(self, running: asyncio.Future[None]) -> str | None:
        """Wait for the end, or for the reason to give up."""
        while True:
            before = self._received
            await asyncio.wait([running], timeout=STALL_SECONDS)
            if running.done():
                return None
            came = self._received - before
            if came < _STALL_BYTES:
                return f"it is too slow: {came} bytes came in {STALL_SECONDS:g} seconds"

    async def _give_up(self, running: asyncio.Future[None], cause: str) -> None:
        self._given_up = cause
        cleaning = in_own_thread(self._clean, "download-end")
        for thread in (cleaning, running):
            await asyncio.wait([thread], timeout=LEAVE_SECONDS)

    def _clean(self) -> None:
        """Remove what there is and end the connection: the thread that downloads ends soon, and
        makes nothing any more."""
        with self._guard:
            for path in self._made:
                with contextlib.suppress(OSError):
                    path.unlink()
            if self._line is not None:
                _shut(self._line)

    def _run(self) -> None:
        try:
            with closing(self._open()) as source:
                self._save(source)
        except HTTPError as error:
            error.close()
            raise self._failed(f"the server answered {error.code} {error.reason}") from error
        except URLError as error:
            raise self._failed(str(error.reason)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(str(error) or type(error).__name__) from error
        finally:
            with self._guard:
                if self._line is not None:
                    self._line.close()
                    self._line = None

    def _open(self) -> Source:
        scheme = urlsplit(self._url).scheme.lower()
        if scheme == "s3":
            return open_object(self._url, _SOCKET_TIMEOUT)
        if scheme == "file":
            return _open_file(unquote(urlsplit(self._url).path))
        return open_web(
            self._url,
            _SOCKET_TIMEOUT,
            check=self._check,
            connected=self._connected,
            credentials=self._environ if self._signed else None,
        )

    def _connected(self, line: socket.socket) -> None:
        """Keep a second handle on the connection, which TLS does not replace and nobody closes
        while it is shut."""
        with self._guard:
            self._go_on()
            if self._line is not None:
                self._line.close()
            self._line = line.dup()

    def _save(self, source: Source) -> None:
        with self._guard:
            self._go_on()
            part, file = part_file.create(self._target)
            self._made.append(part)
        try:
            with file:
                self._copy(source, file)
                # The lock is held until the file has its name.
                self._publish(part)
        finally:
            part.unlink(missing_ok=True)

    def _copy(self, source: Source, file: IO[bytes]) -> None:
        expected = _length(source)
        while chunk := source.read1(_CHUNK):
            self._received += len(chunk)
            self._go_on()
            if self._received > self._max_bytes:
                raise self._failed(f"it is longer than archive_max_bytes={self._max_bytes}")
            file.write(chunk)
        if expected is not None and self._received != expected:
            raise self._failed(f"it ended after {self._received} of {expected} bytes")
        file.flush()

    def _publish(self, part: Path) -> None:
        with self._guard:
            self._go_on()
            try:
                _name(part, self._target)
            except FileExistsError:
                raise Internal(f"Model file already exists {self._target.name}") from None
            self._made.append(self._target)

    def _go_on(self) -> None:
        if self._given_up is not None:
            raise self._failed(self._given_up)

    def _failed(self, cause: str) -> DownloadFailed:
        cause = self._given_up or cause
        return DownloadFailed(f"Failed to download archive from: {self._url}\n{cause}")


def _open_file(path: str) -> BufferedReader:
    # Without waiting: a pipe would hold the thread until somebody writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
    file = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError("it is not a regular file")
    return os.fdopen(file, "rb")


def _name(part: Path, target: Path) -> None:
    # A link fails where the name exists; a rename would replace what another call put there.
    try:
        os.link(part, target)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        target.open("xb").close()
        part.replace(target)


def _shut(line: socket.socket) -> None:
    # Closing alone would not wake a thread that reads from it.
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)


def _length(source: Source) -> int | None:
    headers: Message | None = getattr(source, "headers", None)
    value = headers.get("content-length") if headers is not None else None
    return int(value) if value is not None and value.isdecimal() else None
