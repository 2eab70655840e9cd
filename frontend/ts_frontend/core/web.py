"""Opens http and https URLs: redirects only to where a client may point, signed for S3 where asked,
and such that another thread can end the connection at any time.

`download` calls it.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from email.message import Message
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from typing import IO, Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import (
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from ts_frontend.core.s3 import is_amazons, sign_get
from ts_frontend.errors import ServeError

Connected = Callable[[socket.socket], None]

_PORTS = {"http": 80, "https": 443}


def open_web(
    url: str,
    timeout: float,
    *,
    check: Callable[[str], None],
    connected: Connected,
    credentials: Mapping[str, str] | None,
) -> HTTPResponse:
    """Ask for a URL and follow its redirects.

    Args:
        timeout: seconds without a byte.
        check: raises for a URL that is not allowed; asked for each redirect.
        connected: told each connection, before anything is sent over it.
        credentials: variables to sign the request for S3 with; None: it is not signed.

    Raises:
        OSError, HTTPException: it can't be had.
        ValueError: the credentials are not complete.
    """
    headers = {} if credentials is None else sign_get(url, credentials)
    opener = build_opener(
        ProxyHandler(), _Redirects(check, credentials), _Plainly(connected), _Securely(connected)
    )
    response: HTTPResponse = opener.open(Request(url, headers=headers), timeout=timeout)
    return response


class _Redirects(HTTPRedirectHandler):
    """Follows redirects only to where a client could have pointed in the first place, and leaves
    credentials where they belong."""

    def __init__(self, check: Callable[[str], None], credentials: Mapping[str, str] | None) -> None:
        self._check = check
        self._credentials = credentials

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> Request | None:
        try:
            self._check(newurl)
        except ServeError:
            fp.close()
            raise
        request = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if request is not None and self._credentials is not None:
            # A signature is for one host and path, and nobody else is to see it.
            request.headers.clear()
            if _may_be_signed(req.full_url, newurl):
                for name, value in sign_get(newurl, self._credentials).items():
                    request.add_header(name, value)
        return request


def _may_be_signed(old: str, new: str) -> bool:
    """To the same server, or from S3 to S3: a young bucket is redirected to its region."""
    return _origin(old) == _origin(new) or (is_amazons(old) and is_amazons(new))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


class _Connection(HTTPConnection):
    connected: Connected

    def connect(self) -> None:
        super().connect()
        self.connected(self.sock)


class _SecureConnection(HTTPSConnection, _Connection):
    """Connects as `_Connection`, and speaks TLS then: the handshake can be ended, too."""


C = TypeVar("C", bound=_Connection)


def _make(kind: type[C], connected: Connected, host: str, **options: Any) -> C:
    connection = kind(host, **options)
    connection.connected = connected
    return connection


class _Plainly(HTTPHandler):
    def __init__(self, connected: Connected) -> None:
        super().__init__()
        self._connected = connected

    def http_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_make, _Connection, self._connected), req)


class _Securely(HTTPSHandler):
    def __init__(self, connected: Connected) -> None:
        super().__init__()
        self._connected = connected

    def https_open(self, req: Request) -> HTTPResponse:
        return self.do_open(partial(_make, _SecureConnection, self._connected), req)
