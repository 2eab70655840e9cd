"""The server runs on uvloop, whose transports differ from asyncio's: the wire tests once more."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType

import pytest

from tests.frontend import (
    test_http_addresses,
    test_http_core,
    test_http_door,
    test_http_draining,
    test_http_limits,
    test_http_slow_clients,
    test_http_streaming,
    test_http_track,
    test_http_track_streams,
    test_http_wire,
)

uvloop = pytest.importorskip("uvloop")


def without_arguments(module: ModuleType) -> Iterator[Callable[[], Awaitable[None]]]:
    """The tests of a module that need no fixture."""
    for name, function in vars(module).items():
        if name.startswith("test_") and not inspect.signature(function).parameters:
            yield function


MODULES = [
    test_http_wire,
    test_http_limits,
    test_http_slow_clients,
    test_http_draining,
    test_http_addresses,
    test_http_streaming,
    test_http_door,
    test_http_track,
    test_http_track_streams,
    test_http_core,
]
TESTS = [test for module in MODULES for test in without_arguments(module)]


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_on_uvloop(test: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
