"""Kept on purpose: what a request may be, how its answer looks, and what probes are told."""

from __future__ import annotations

import asyncio
import json

from tests.compat.scenes import get, refuse, run
from tests.core_rig import Rig
from tests.fakes import run_virtual
from tests.frontend.http_fakes import edge, post, talk


async def test_a_response_has_no_content_type_and_no_phrase() -> None:
    """TorchServe sent neither a content-type nor a reason phrase unless the handler set them."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b'{"a": 1}'))
    assert answer.startswith(b"HTTP/1.1 200 \r\n")
    assert b"content-type" not in answer.lower()


async def test_cache_control_has_a_semicolon() -> None:
    """TorchServe put ";" and not "," behind the first word of Cache-Control."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m"))
    assert b"\r\nCache-Control: no-cache; no-store, must-revalidate, private\r\n" in answer


def test_json_results_are_indented() -> None:
    """TorchServe wrote what is no bytes or text as JSON with an indent of two, without a line feed
    at the end."""
    outcome = run(lambda data, context: [{"a": [1]}])
    assert bytes(outcome.predictions[0].body) == b'{\n  "a": [\n    1\n  ]\n}'


async def test_the_clients_request_id_is_not_taken_over() -> None:
    """TorchServe answered with an x-request-id of its own, whatever the client sent."""
    async with edge() as e:
        answer = await talk(e.port, post("/predictions/m", b"", "x-request-id: mine"))
        assert b"x-request-id: mine" not in answer
        assert e.inference.headers()["x-request-id"] == "mine"


async def test_any_method_predicts_and_the_query_stays_outside() -> None:
    """TorchServe looked at neither the method nor the query of /predictions; on /invocations the
    query became part of the row."""
    async with edge() as e:
        for method in ("GET", "PUT", "POST", "DELETE"):
            assert (await get(e.url("/predictions/m?a=b"), method))[0] == 200
            assert set(e.inference.row()) == {"body"}
        await get(e.url("/invocations?model_name=m&a=b"))
        assert set(e.inference.row()) == {"model_name", "a", "body"}


async def test_a_request_needs_no_host() -> None:
    """HTTP/1.1 asks for one; HAProxy's checks, for instance, have none unless told so."""
    async with edge() as e:
        answer = await talk(e.port, b"GET /ping HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def test_a_form_field_has_no_type() -> None:
    """In TorchServe a part without a filename reached the handler as bytes, whatever content type
    it declared."""
    head = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\nContent-Type: %b\r\n\r\n{}\r\n'
    parts = (head % (b"a", b"", b"application/json"), head % (b"f", b'; filename="f"', b"text/x"))
    body = b"".join(parts) + b"--b--\r\n"
    async with edge() as e:
        await talk(
            e.port,
            post("/predictions/m", body, "Content-Type: multipart/form-data; boundary=b"),
        )
        assert e.inference.row() == {"a": ("", b"{}"), "f": ("text/x", b"{}")}


async def test_unhealthy_is_a_status_object() -> None:
    """TorchServe's ping said 500 with a status object, where all other errors have code, type and
    message."""
    async with edge() as e:
        e.inference.well = False
        assert await get(e.url("/ping")) == (500, '{\n  "status": "Unhealthy"\n}\n')


def test_ping_looks_at_default_versions_and_forgives_for_the_retry_window() -> None:
    """TorchServe's ping stayed green for maxRetryTimeoutInSec while workers crashed, and whatever
    became of versions that are not the default."""

    async def main() -> None:
        async with Rig() as rig:
            await rig.serve(max_retry_timeout=10)
            rig.backend.load = refuse
            rig.supervisor.scale(rig.add(version="2", max_retry_timeout=0), 1, 1)
            rig.worker.die(1, None)
            await asyncio.sleep(9.9)
            assert rig.inference.healthy()
            await asyncio.sleep(0.2)
            assert not rig.inference.healthy()

    run_virtual(main)


async def test_the_description_of_a_model_says_prediction() -> None:
    """TorchServe's OpenAPI of one model has the path /prediction/{m}, without the "s"."""
    async with edge() as e:
        text = (await get(e.url("/predictions/m"), "OPTIONS"))[1]
    assert next(iter(json.loads(text)["paths"])) == "/prediction/m"
