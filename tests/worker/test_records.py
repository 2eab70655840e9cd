"""What a handler logs arrives as it logged it, with the requests it logged it for."""

from __future__ import annotations

import logging

import pytest

from tests.worker.conftest import ask, until
from tests.worker.handlers_for_workers import LOGS

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_records_keep_level_logger_and_request_ids(backend, spec):
    told = spec(LOGS)
    events = told.events
    worker = await backend.start(told)
    await ask(worker, b"a", b"b", batch_id=7)
    await until(lambda: {"printed", "complained"} <= {line for _, line in events.lines})
    await worker.stop(2)

    mine = [record for record in events.records if record.logger == "mine"]
    loading, *levels, broke, beside = mine
    assert (loading.text, loading.request_ids) == ("loading", "")
    assert [(record.level, record.text) for record in levels] == [
        (level, f"at {level}") for level in (5, 10, 20, 30, 40, 50)
    ]
    assert {record.request_ids for record in (*levels, broke)} == {"7-0,7-1"}
    assert broke.level == logging.ERROR
    lines = broke.text.splitlines()
    assert (lines[0], lines[1], lines[-1]) == (
        "it broke",
        "Traceback (most recent call last):",
        "ValueError: a cause",
    )
    # A thread of the handler's own may log for any batch, or for none.
    assert (beside.text, beside.request_ids) == ("beside", "")
    assert not [record for record in events.records if "root's level" in record.text]
    assert {("stderr", "complained"), ("stdout", "printed")} <= set(events.lines)
