"""A web server of archives for the register calls that name a URL, and its bad days."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Web:
    """What a loopback web server has to give; a test fills it in.

    ``files`` are bodies by path, ``moved`` where a path is redirected to, ``lengths`` the
    content-length that a path claims.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.files: dict[str, bytes] = {}
        self.moved: dict[str, str] = {}
        self.lengths: dict[str, int] = {}

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"


@contextmanager
def web_server() -> Iterator[Web]:
    """Serve a `Web` on a free port."""

    class Files(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in web.moved:
                self.send_response(302)
                self.send_header("Location", web.moved[path])
                self.end_headers()
                return
            body = web.files.get(path)
            self.send_response(404 if body is None else 200)
            body = body or b""
            self.send_header("Content-Length", str(web.lengths.get(path, len(body))))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Nothing on the terminal of the tests."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        web = Web(server.server_port)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()
