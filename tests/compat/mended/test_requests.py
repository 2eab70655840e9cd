"""Mended on purpose: requests that were left without an answer, or got a wrong one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.core_rig import Rig, Site, send
from tests.fakes import hold, make_request, run_virtual
from tests.frontend.http_fakes import edge, post, talk
from ts.service import PredictionException, Service
from ts.torch_handler.base_handler import BaseHandler
from ts.torch_handler.request_envelope.json import JSONEnvelope
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer
from ts_frontend.errors import Internal, ModelNotFound, RequestTimeout
from ts_frontend.http.server import Listener
from ts_worker.messages import Request, pack_headers


def test_an_expired_request_gets_a_408_or_a_504() -> None:
    """Past clientTimeoutInMills TorchServe dropped the request and sent nothing, ever; an answer
    that came after the deadline went the same way."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            await rig.serve(client_timeout=500)
            running = send(rig)
            await rig.worker.received()
            with pytest.raises(
                RequestTimeout, match=r"waited .* clientTimeoutInMills=500"
            ) as caught:
                await send(rig)
            assert caught.value.status == 408
            assert asyncio.get_running_loop().time() == pytest.approx(0.5)
            with pytest.raises(RequestTimeout, match="by its worker") as caught:
                await running
            assert caught.value.status == 504
            # Nobody waits for it: the handler may learn so.
            (batch,) = rig.worker.batches
            assert rig.worker.cancelled == [batch.requests[0].id]
            rig.worker.finish()

    run_virtual(main)


async def test_a_silent_connection_is_closed() -> None:
    """TorchServe had no time limit for it."""

    def hurry(listener: Listener) -> None:
        assert listener._head_timeout == 30
        listener._head_timeout = 0.1

    async with edge(tune=hurry) as e:
        assert await talk(e.port) == b""
        assert await talk(e.port, b"GET /ping HTT") == b""


async def test_requests_that_wait_for_an_unregistered_model_get_a_404(site: Site) -> None:
    """TorchServe dropped the queue of a model that was unregistered, and answered none of it."""
    site.backend.behaviour = hold
    await site.register(site.model(), 1)
    running, waiting = send(site, b"run"), send(site)
    await site.worker.received()
    leaving = asyncio.create_task(site.management.unregister("m", None))
    with pytest.raises(ModelNotFound, match=r"^Model not found: m$"):
        await waiting
    site.worker.finish()
    assert (await running).body == b"run"
    await leaving


def test_a_describe_call_ends_with_the_response_timeout() -> None:
    """TorchServe did not limit a handler's answer to customized=true at all."""

    async def main() -> None:
        async with Rig(behaviour=hold) as rig:
            model = await rig.serve(response_timeout=3)
            with pytest.raises(Internal):
                await describe_itself(model, make_request())
            assert asyncio.get_running_loop().time() == pytest.approx(3)

    run_virtual(main)


def test_a_handlers_error_is_never_a_success() -> None:
    """TorchServe sent the code of a PredictionException as it was: 200 with an error's text."""

    def handle(data: object, context: object) -> list[object]:
        raise PredictionException("fine?", 200)

    outcome = Service("m", "/nowhere", None, handle, None, 1).infer([{}], [{}], {0: "id"})
    assert (outcome.code, outcome.message) == (500, "fine?")


def test_a_bad_request_need_not_fail_its_batch() -> None:
    """What TorchServe's handlers raise answers the whole batch, whoever is to blame."""

    def handle(data: list[bytes], context: object) -> list[object]:
        if b"bad" in data:
            raise PredictionException("no cat", 422, request_index=data.index(b"bad"))
        return list(data)

    def pick(numbers: list[int]) -> tuple[list[Any], list[Any], dict[int, str]]:
        rows = [[b"a", b"bad"][number] for number in numbers]
        return [{} for _ in rows], rows, {at: f"id{n}" for at, n in enumerate(numbers)}

    service = Service("m", "/nowhere", None, handle, None, 2)
    failed = service.infer(*pick([0, 1]))
    first, second = service.settle(failed, {0: "id0", 1: "id1"}, pick)
    assert (first.rows, first.outcome[:2]) == ([1], (422, "no cat"))
    assert (second.rows, second.outcome.predictions[0].body) == ([0], b"a")


def test_input_that_cannot_be_read_fails_its_own_request() -> None:
    """TorchServe's built-in handlers and envelopes raised: nobody of the batch was answered."""
    envelope = JSONEnvelope(lambda data, context: data)
    service = Service("m", "/nowhere", None, envelope.handle, None, 2)
    rows = [{"body": b'{"instances": [1]}'}, {"body": b"no JSON"}]
    outcome = service.infer([{}, {}], rows, {0: "id0", 1: "id1"})
    assert (outcome.code, outcome.message, outcome.blamed) == (503, "Prediction failed", (1,))


async def test_an_answer_that_is_too_long_costs_itself_only() -> None:
    """TorchServe closed the connection to the worker and answered its batch "Worker died."."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(batch_size=2, max_response_size=3)
        first = send(rig, b"x")
        await rig.worker.received()
        long, short = send(rig, b"four"), send(rig, b"two")
        rig.worker.finish()
        await rig.worker.received(2)
        rig.worker.finish()
        text = r"^The answer of 4 bytes is longer than max_response_size=3; raise that key"
        with pytest.raises(Internal, match=text) as caught:
            await long
        assert caught.value.status == 500
        assert ((await first).body, (await short).body) == (b"x", b"two")
        assert rig.backend.alive == [rig.worker]


async def test_a_client_that_leaves_takes_its_request_along() -> None:
    """TorchServe did not notice that a client had gone and computed its answer all the same."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def wait(request: Request) -> Answer:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with edge(behaviour=wait) as e:
        _, writer = await asyncio.open_connection("127.0.0.1", e.port)
        writer.write(post("/predictions/m"))
        await begun.wait()
        writer.close()
        await asyncio.wait_for(cancelled.wait(), 10)


async def test_a_stream_of_one_message_is_a_whole_answer() -> None:
    """TorchServe wrote no correct response where the first message of a stream was its last."""
    headers = pack_headers([("ts_stream_next", "false")])

    async def only(request: Request) -> Answer:
        return Answer(200, "", headers, b"only")

    async with edge(behaviour=only) as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert answer.endswith(b"\r\ncontent-length: 4\r\nconnection: close\r\n\r\nonly")


def test_a_form_may_name_the_class_to_explain() -> None:
    """TorchServe's handlers gave a form field, which is bytes, to captum as the target."""

    class Handler(BaseHandler):
        def get_insights(self, data: object, inputs: object, target: object) -> list[object]:
            return [target]

    for given, target in ((bytearray(b"2"), 2), ("1", 1), (3, 3), (b"cat", b"cat"), (None, 0)):
        assert Handler().explain_handle(None, [{"body": b"x", "target": given}]) == [target]
