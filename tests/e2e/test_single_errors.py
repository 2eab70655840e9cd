"""Errors of single requests in a batch, as their clients see them."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import MARS, Answer, Server, archive, until

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def server(make_server) -> Server:
    server = make_server(default_workers_per_model=1)
    for name, isolate in (("picky", "false"), ("isolating", "true")):
        config = server.folder / f"{name}.yaml"
        config.write_text(
            "batchSize: 4\nmaxBatchDelay: 10000\nbatchPolicy: delay\nminWorkers: 1\n"
            f"isolateErrors: {isolate}\n"
        )
        archive(server.store, name, MARS / "picky.py", "--config-file", str(config))
    server.start("--models", "picky.mar", "isolating.mar")
    until(lambda: server.ready("picky") and server.ready("isolating"))
    return server


def batch(server: Server, pool, model: str, *bodies: bytes) -> list[Answer]:
    """The answers to four requests that make one batch."""
    assert len(bodies) == 4
    return list(pool.map(lambda body: server.predict(model, body), bodies))


def outline(answer: Answer) -> tuple:
    """All that a client may look at, but for the id."""
    headers = {k: v for k, v in answer.headers.items() if k.lower() != "x-request-id"}
    return answer.status, headers, answer.body


def test_only_the_requests_to_blame_get_an_error(server, pool):
    a, bad, odd, d = batch(server, pool, "picky", b"a", b"bad", b"odd", b"d")
    assert (a.status, a.text, d.status, d.text) == (200, "a of 2", 200, "d of 2")
    kind = "InternalServerException"
    assert (bad.status, bad.json) == (422, {"code": 422, "type": kind, "message": "no cat"})
    assert odd.json == {"code": 503, "type": kind, "message": "Prediction failed"}
    assert bad.headers["connection"] == odd.headers["connection"] == "close"
    named = [f"(request {error.headers['x-request-id']})" for error in (bad, odd)]
    until(lambda: all(name in server.log("model_log") for name in named))


def test_an_error_of_one_looks_like_that_of_a_whole_batch(server, pool):
    whole = batch(server, pool, "picky", b"bad", b"bad", b"bad", b"bad")
    one = batch(server, pool, "picky", b"a", b"b", b"c", b"bad")[3]
    assert {str(outline(answer)) for answer in (*whole, one)} == {str(outline(one))}
    sly = batch(server, pool, "picky", b"a", b"sly", b"c", b"d")
    assert {str(outline(answer)) for answer in sly} == {str(outline(sly[1]))}
    assert outline(sly[1]) == outline(batch(server, pool, "isolating", *[b"sly"] * 4)[0])


def test_isolated_requests_get_outcomes_of_their_own(server, pool):
    a, sly, bad, d = batch(server, pool, "isolating", b"a", b"sly", b"bad", b"d")
    assert (a.text, d.text) == ("a of 1", "d of 1")
    assert (sly.status, bad.status) == (503, 422)
