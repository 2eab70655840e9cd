"""Copies one archive from an http(s), s3 or file URL into the model store, whole or not at all.

`store` runs it in a thread.
"""

from __future__ import annotations

import os
import shutil
import threading
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from email.message import Message
from http.client import HTTPException
from pathlib import Path
from typing import IO, Protocol
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from ts_frontend.core.bucket import open_object
from ts_frontend.core.s3 import sign_get
from ts_frontend.errors import DownloadFailed, Internal, ServeError

_CHUNK = 1 << 20
_SOCKET_TIMEOUT = 60.0  # seconds without a byte


class Source(Protocol):
    """Where the bytes come from."""

    def read(self, size: int, /) -> bytes: ...
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
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """Give up soon; `run` then raises. For other threads."""
        self._abandoned.set()

    def run(self) -> None:
        """Download.

        Raises:
            DownloadFailed: with the URL in TorchServe's words, and the cause.
            ModelNotFound: a redirect leads to a URL that is not allowed.
            Internal: another download put the file there first.
        """
        part = self._target.with_name(f".{self._target.name}.{uuid.uuid4().hex}.part")
        try:
            with closing(self._open()) as source, part.open("xb") as file:
                self._copy(source, file)
            self._publish(part)
        except HTTPError as error:
            error.close()
            raise self._failed(f"the server answered {error.code} {error.reason}") from error
        except URLError as error:
            raise self._failed(str(error.reason)) from error
        except (OSError, HTTPException, ValueError) as error:
            raise self._failed(str(error) or type(error).__name__) from error
        finally:
            part.unlink(missing_ok=True)

    def _open(self) -> Source:
        scheme = urlsplit(self._url).scheme.lower()
        if scheme == "s3":
            return open_object(self._url, _SOCKET_TIMEOUT)
        if scheme == "file":
            return Path(unquote(urlsplit(self._url).path)).open("rb")
        headers = sign_get(self._url, self._environ) if self._signed else {}
        opener = build_opener(ProxyHandler(), _CheckedRedirects(self._check))
        request = Request(self._url, headers=headers)
        response: Source = opener.open(request, timeout=_SOCKET_TIMEOUT)
        return response

    def _copy(self, source: Source, file: IO[bytes]) -> None:
        expected = _length(source)
        written = 0
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if self._abandoned.is_set():
                raise self._failed("the registration was given up")
            if written > self._max_bytes:
                raise self._failed(f"it is longer than archive_max_bytes={self._max_bytes}")
            file.write(chunk)
        if expected is not None and written != expected:
            raise self._failed(f"it ended after {written} of {expected} bytes")

    def _publish(self, part: Path) -> None:
        # A link fails where the name exists; a rename would replace what another call put there.
        try:
            os.link(part, self._target)
        except FileExistsError:
            raise Internal(f"Model file already exists {self._target.name}") from None
        except PermissionError:  # a file system without hard links
            with part.open("rb") as source, self._target.open("xb") as file:
                shutil.copyfileobj(source, file, _CHUNK)

    def _failed(self, cause: str) -> DownloadFailed:
        return DownloadFailed(f"Failed to download archive from: {self._url}\n{cause}")


class _CheckedRedirects(HTTPRedirectHandler):
    """Follows redirects only to where a client could have pointed in the first place."""

    def __init__(self, check: Callable[[str], None]) -> None:
        self._check = check

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        try:
            self._check(newurl)
        except ServeError:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _length(source: Source) -> int | None:
    headers: Message | None = getattr(source, "headers", None)
    value = headers.get("content-length") if headers is not None else None
    return int(value) if value is not None and value.isdecimal() else None
