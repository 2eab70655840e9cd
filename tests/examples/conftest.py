"""The examples are served by the real server too."""

from tests.e2e.conftest import make_server as make_server
