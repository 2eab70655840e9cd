"""Kept on purpose: statuses and texts of errors."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.compat.scenes import get, run
from tests.core_rig import Rig, never, until
from tests.fakes import hold, make_request
from tests.frontend.http_fakes import edge, post, talk
from ts_frontend.config import Address
from ts_frontend.core.inference import describe_itself
from ts_frontend.core.job import Answer
from ts_frontend.errors import Internal, ServiceUnavailable
from ts_worker.messages import Request

NO_WORKER = (
    " has no worker to serve inference request. Please use scale workers API to add workers. If "
    "this is a sequence inference, please check if it is closed, or expired; or exceeds "
    "maxSequenceJobQueueSize"
)


async def test_texts_have_unbalanced_quotes() -> None:
    """With a version in the URL TorchServe's 503 opened no quote before the one it closed."""
    async with Rig() as rig:
        rig.add()
        for version, subject in ((None, 'Model "m"'), ("1.0", 'Model "m" Version 1.0"')):
            with pytest.raises(ServiceUnavailable) as caught:
                await rig.inference.predict("m", version, make_request())
            assert caught.value.message == subject + NO_WORKER


async def test_no_worker_and_a_full_queue_have_one_text() -> None:
    """TorchServe told a client of a full queue that the model has no worker, with 503 too."""
    async with Rig() as rig:
        rig.backend.load = never
        model = rig.add(job_queue_size=1)
        rig.supervisor.scale(model, 1, 1)  # a worker that starts lets requests queue
        waiting = asyncio.create_task(rig.inference.predict("m", None, make_request()))
        await until(lambda: len(model.queue) == 1)
        with pytest.raises(ServiceUnavailable) as caught:
            await rig.inference.predict("m", None, make_request())
        assert caught.value.message == 'Model "m"' + NO_WORKER
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_matadata_is_spelled_so() -> None:
    """TorchServe wrote "matadata" where a describe job failed with its worker."""
    async with Rig(behaviour=hold) as rig:
        model = await rig.serve()
        asking = asyncio.create_task(describe_itself(model, make_request()))
        await rig.worker.received()
        rig.worker.die(1, None)
        with pytest.raises(Internal, match=r"^Failed to get customized model matadata\.$"):
            await asking


async def test_a_workers_death_is_a_500_and_the_batch_is_not_retried() -> None:
    """TorchServe answered the batch of a dying worker "Worker died." and never ran it again; a
    worker that was killed for memory gave 507."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve(workers=2)
        for signal, status in ((11, 500), (9, 507)):
            asking = asyncio.create_task(rig.inference.predict("m", None, make_request()))
            await until(lambda: any(worker.current for worker in rig.backend.alive))
            next(worker for worker in rig.backend.alive if worker.current).die(None, signal)
            with pytest.raises(Internal, match=r"^Worker died\.$") as caught:
                await asking
            assert caught.value.status == status
        assert sum(len(worker.batches) for worker in rig.backend.workers) == 2


async def test_a_handlers_413_becomes_507() -> None:
    """TorchServe turned a worker's 413 into 507."""
    async with Rig(behaviour=hold) as rig:
        await rig.serve()
        asking = asyncio.create_task(rig.inference.predict("m", None, make_request()))
        await rig.worker.received()
        rig.worker.finish(413, "Out of resources")
        with pytest.raises(Internal, match=r"^Out of resources$") as caught:
            await asking
        assert caught.value.status == 507


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyError("x"), 503, "Prediction failed"),
        (RuntimeError("CUDA error: 2"), 507, "Out of resources"),
        (MemoryError(), 507, "Out of resources"),
    ],
)
def test_a_handlers_exception_is_a_503(error: Exception, code: int, message: str) -> None:
    """TorchServe answered the batch of a handler that raised with 503 and no cause; with 507 where
    the text of the exception had "CUDA" in it."""

    def handle(data: object, context: object) -> list[object]:
        raise error

    outcome = run(handle)
    assert (outcome.code, outcome.message) == (code, message)


async def test_an_error_closes_the_connection() -> None:
    """TorchServe closed the connection behind every status of 400 and more, a handler's own too."""

    async def teapot(request: Request) -> Answer:
        return Answer(418, "", b"", b"short and stout")

    async with edge(behaviour=teapot) as e:
        # `talk` reads until the server closes; the request itself asks to keep the line.
        answer = await talk(e.port, b"GET /predictions/m HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"connection: close\r\n\r\nshort and stout")


async def test_an_escaped_slash_separates_and_a_bad_escape_is_a_403() -> None:
    """TorchServe decoded a path before it cut it, and answered a malformed escape with 403."""
    async with edge() as e:
        assert b" 200 " in await talk(e.port, post("/predictions%2Fm"))
        answer = await talk(e.port, post("/predictions/%zz"))
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b'"type": "IllegalArgumentException"' in answer


async def test_plain_http_on_an_https_address_is_a_403() -> None:
    """TorchServe looked at the first bytes and answered plain requests without TLS."""
    async with edge(inference_address=Address("https", "127.0.0.1", 0)) as e:
        status, text = await get(e.url("/ping"))
        assert (status, json.loads(text)) == (
            403,
            {"status": "This TorchServe instance only accepts HTTPS requests"},
        )
