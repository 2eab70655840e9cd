"""The pitfalls of §12 of the reference that show in a real worker only; ids name the row.

The others are in tests/handlers/reference/test_pitfalls.py, which also says what is left out.
"""

from __future__ import annotations

import json
import os
import re

import pytest

from tests.worker.conftest import ask
from ts_worker.backend.base import LoadFailed

pytestmark = pytest.mark.asyncio(loop_scope="module")


def pitfall(*names: str) -> pytest.MarkDecorator:
    """The rows that a test stands for; the first is its id."""
    return pytest.mark.parametrize("pitfall", [", ".join(names)])


@pitfall("12.3 one process per worker, in the model's folder, which goes first")
async def test_surroundings(pitfall, backend, spec, tmp_path):
    source = """
import os, sys, json
def handle(data, context):
    return data and [{"pid": os.getpid(), "cwd": os.getcwd(), "path": sys.path}]
"""
    workers = [await backend.start(spec(source, id=id)) for id in ("9000", "9001")]
    found = []
    for worker in workers:
        reply, _ = await ask(worker, b"x")
        found.append(json.loads(bytes(reply.responses[0].body)))
        await worker.stop(5)
    assert found[0]["pid"] != found[1]["pid"]
    assert {one["cwd"] for one in found} == {str(tmp_path)}
    for one in found:
        assert one["path"][0] == str(tmp_path)
        assert not [place for place in one["path"] if place.rstrip("/").endswith("/ts")]


@pitfall("12.8 whatever a load raises is a failed load, and tells")
@pytest.mark.parametrize(
    ("raised", "code", "cause"),
    [
        ("MemoryError('all of it')", 507, "System out of memory (MemoryError: all of it)"),
        ("RuntimeError('CUDA error: out')", 507, "System out of memory (RuntimeError: CUDA"),
        ("RuntimeError('other')", 500, "RuntimeError: other"),
        ("KeyError('weights')", 500, "KeyError: 'weights'"),
        ("AssertionError", 500, "AssertionError"),
        ("SystemExit(3)", 500, "SystemExit: 3"),
        ("BaseException('odd')", 500, "exit code 1"),
        ("type('Own', (Exception,), {})('mine')", 500, "Own: mine"),
        (
            "type('Own', (RuntimeError,), {'__str__': lambda self: 1 / 0})",
            500,
            "Own: <its __str__ raised ZeroDivisionError>",
        ),
    ],
)
async def test_loads_that_raise(pitfall, backend, spec, raised, code, cause):
    with pytest.raises(LoadFailed) as failure:
        await backend.start(spec(f"def handle(data, context):\n    raise {raised}\n"))
    assert (failure.value.code, cause in failure.value.message) == (code, True), failure.value
    assert "handler_of_test.py" in failure.value.traceback


@pitfall("12.13 a metrics.yaml without a usable model_metrics stops each worker, and says so")
@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("dimensions: []\n", "model_metrics"),
        ("model_metrics:\n", "model_metrics"),
        ("model_metrics:\n  odd: [{name: a, unit: b, dimensions: []}]\n", "odd"),
        ("model_metrics:\n  counter: [{name: a}]\n", "Key not found in cache spec"),
        ("a: [\n", "YAML"),
    ],
)
async def test_bad_metrics(pitfall, backend, spec, tmp_path, text, cause):
    (tmp_path / "metrics.yaml").write_text(text)
    with pytest.raises(LoadFailed, match=re.escape(cause)):
        await backend.start(
            spec("def handle(d, c): pass\n", metrics_config=str(tmp_path / "metrics.yaml"))
        )


@pitfall("12.16 header values that are no str do not end the worker")
async def test_odd_headers(pitfall, backend, spec):
    source = """
def handle(data, context):
    if data is None:
        return None
    context.set_response_header(0, "X-Count", 3)
    return ["x"]
"""
    worker = await backend.start(spec(source, env=dict(os.environ)))
    for batch_id in (1, 2):
        reply, _ = await ask(worker, b"x", batch_id=batch_id)
        assert reply.responses[0].headers == b"X-Count\x003"
    await worker.stop(5)
