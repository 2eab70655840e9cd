"""Batches whose handler fails, in real workers: several replies for one batch."""

from __future__ import annotations

import asyncio

import pytest

from tests.worker.conftest import Events, ask, predict_message
from ts_worker.messages import Reply, ReplyChunk, unpack_headers

pytestmark = pytest.mark.asyncio(loop_scope="module")

PICKY = """
from ts.handler_utils.utils import send_intermediate_predict_response
from ts.utils.util import PredictionException

def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row["body"]) for row in data]
    if b"bad" in bodies:
        raise PredictionException("not that one", 422, bodies.index(b"bad"))
    if b"stream" in bodies and len(bodies) > 1:
        at = bodies.index(b"stream")
        send_intermediate_predict_response(
            {at: "begun"}, {at: context.request_ids[at]}, "Intermediate", 200, context)
    if b"worse" in bodies:
        raise ValueError("it does not say which")
    for row in data:
        row.clear()  # a second call must not see what the first one did
    return bodies
"""
ISOLATING = "isolateErrors: true\n"


async def replies(worker, *bodies: bytes) -> tuple[list[Reply], list[ReplyChunk]]:
    """All that a worker says about one batch, until each request has its answer."""
    done = asyncio.Event()
    answers: list[Reply] = []
    chunks: list[ReplyChunk] = []

    def reply(message) -> None:
        if isinstance(message, ReplyChunk):
            chunks.append(message)
            return
        answers.append(message)
        if sum(len(one.responses) for one in answers) == len(bodies):
            done.set()

    worker.predict(predict_message(*bodies), reply)
    await asyncio.wait_for(done.wait(), 30)
    return answers, chunks


def told(answers: list[Reply]) -> list[tuple]:
    return [(one.code, one.message, [r.request_id for r in one.responses]) for one in answers]


@pytest.fixture
def isolating(spec, tmp_path):
    """A worker's spec whose model asks for ``isolateErrors``."""
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text('{"model": {"configFile": "c.yaml"}}')
    (tmp_path / "c.yaml").write_text(ISOLATING)
    return spec


async def test_a_blamed_row_is_answered_before_the_others_run_again(backend, spec):
    events = Events()
    worker = await backend.start(spec(PICKY, events=events))
    answers, _ = await replies(worker, b"a", b"bad", b"c")
    assert told(answers) == [
        (422, "not that one", [b"1-1"]),
        (200, "", [b"1-0", b"1-2"]),
    ]
    assert [bytes(one.body) for one in answers[1].responses] == [b"a", b"c"]
    assert not worker._batches, "the batch has ended"
    assert any("(request 1-1)" in record.text for record in events.records)
    reply, _ = await ask(worker, b"next", batch_id=2)
    assert bytes(reply.responses[0].body) == b"next"
    times = [one for one in events.metrics if one.name == "PredictionTime"]
    assert [one.request_ids for one in times] == ["1-0,1-1,1-2", "2-0"]
    await worker.stop(5)


async def test_without_an_index_one_reply_fails_all(backend, spec):
    worker = await backend.start(spec(PICKY))
    reply, _ = await ask(worker, b"a", b"worse")
    assert (reply.code, reply.message, reply.responses) == (503, "Prediction failed", ())
    assert not worker._batches
    await worker.stop(5)


async def test_isolated_rows_are_answered_one_by_one(backend, isolating):
    worker = await backend.start(isolating(PICKY))
    answers, _ = await replies(worker, b"a", b"worse", b"c")
    assert told(answers) == [
        (200, "", []),
        (200, "", [b"1-0"]),
        (503, "Prediction failed", [b"1-1"]),
        (200, "", [b"1-2"]),
    ]
    await worker.stop(5)


async def test_a_row_that_streams_is_not_isolated(backend, isolating):
    worker = await backend.start(isolating(PICKY))
    answers, chunks = await replies(worker, b"stream", b"worse", b"c")
    assert [bytes(chunk.body) for chunk in chunks] == [b"begun"]
    assert told(answers) == [
        (503, "Prediction failed", [b"1-0"]),
        (503, "Prediction failed", [b"1-1"]),
        (200, "", [b"1-2"]),
    ]
    await worker.stop(5)


@pytest.mark.parametrize(
    "bad",
    [
        "context.set_response_header(1, 'X-A', '\\ud800')",
        "context.set_response_status(200, '\\ud800', idx=1)",
        "context.set_response_status(1 << 40, idx=1)",
    ],
    ids=["header", "reason", "status"],
)
async def test_an_answer_that_cannot_be_sent_fails_its_own_request_only(backend, spec, bad):
    source = f"""
def handle(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Seen", len(data))
    context.set_response_header(0, "X-A", "fine")
    if len(data) > 1:
        {bad}
    return [bytes(row["body"]) for row in data]
"""
    events = Events()
    worker = await backend.start(spec(source, events=events))
    answers, _ = await replies(worker, b"a", b"b", b"c")
    assert told(answers) == [
        (200, "", [b"1-0"]),
        (503, "Prediction failed", [b"1-1"]),
        (200, "", [b"1-2"]),
    ]
    assert [bytes(answers[at].responses[0].body) for at in (0, 2)] == [b"a", b"c"]
    assert unpack_headers(answers[0].responses[0].headers) == [("X-A", "fine")]
    (record,) = [one for one in events.records if "can't be sent" in one.text]
    assert record.text.startswith("The answer to request 1-1 can't be sent\nTraceback")
    assert [one.value for one in events.metrics if one.name == "Seen"] == [3]
    assert not worker._batches
    reply, _ = await ask(worker, b"next", batch_id=2)
    assert bytes(reply.responses[0].body) == b"next"
    await worker.stop(5)
