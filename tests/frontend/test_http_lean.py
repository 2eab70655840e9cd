"""aiohttp's server without its client, and the whole of it for who asks. Each in a new process."""

from __future__ import annotations

import subprocess
import sys


def said(code: str) -> list[str]:
    """What a new interpreter prints, line by line."""
    words = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_server_imports_no_client() -> None:
    code = (
        "import sys\n"
        "from ts_frontend.http.lean import import_server\n"
        "import_server()\n"
        "import ts_frontend.server\n"
        "heavy = ('aiohttp.client', 'aiohttp.web_app', 'psutil', 'packaging')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    assert said(code) == ["[]"]


def test_who_uses_the_client_gets_all_of_aiohttp() -> None:
    code = (
        "from ts_frontend.http.lean import import_server\n"
        "import_server()\n"
        "from aiohttp.web import BaseRequest\n"
        "from ts_frontend.http import connection\n"
        "import aiohttp, aiohttp.web, aiohttp.web_request\n"
        "print(aiohttp.ClientSession.__name__, aiohttp.web.Application.__name__)\n"
        "print(aiohttp.web.BaseRequest is BaseRequest is aiohttp.web_request.BaseRequest)\n"
        "print(connection.StreamReader is aiohttp.StreamReader)\n"
        "print(aiohttp.http.SERVER_SOFTWARE.endswith('aiohttp/' + aiohttp.__version__))\n"
        "print(sorted(aiohttp.__all__)[0] in vars(aiohttp), hasattr(aiohttp, 'nothing'))\n"
    )
    assert said(code) == ["ClientSession Application", "True", "True", "True", "True False"]


def test_aiohttp_that_is_there_stays_as_it_is() -> None:
    code = (
        "import aiohttp, aiohttp.web\n"
        "before = aiohttp, aiohttp.web, dict(vars(aiohttp))\n"
        "from ts_frontend.http.lean import import_server\n"
        "import_server()\n"
        "import sys\n"
        "print((sys.modules['aiohttp'], aiohttp.web, dict(vars(aiohttp))) == before)\n"
    )
    assert said(code) == ["True"]
