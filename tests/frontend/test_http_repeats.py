"""Requests that a client repeats on its connection are answered as each alone would be."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.http_fakes import Edge, edge
from tests.frontend.http_kept import Kept, M, Said
from ts_frontend.core.job import Answer, Stream
from ts_frontend.errors import Internal, ServiceUnavailable
from ts_frontend.http.tokens import Tokens
from ts_frontend.logs import ACCESS_FIELDS
from ts_worker.messages import Request, pack_headers


class Step(NamedTuple):
    """A request of a sequence."""

    path: str
    body: bytes = b""
    lines: tuple[str, ...] = ()
    method: str = "POST"


async def behave(request: Request) -> Answer:
    """Do what the body says."""
    body = bytes(request.params[-1].value) if request.params else b""
    match body:
        case b"fail":
            raise Internal("the handler's own", status=507)
        case b"full":
            raise ServiceUnavailable("no room")
        case b"422" | b"204" | b"301" | b"99":
            return Answer(int(body), "Said so", b"", b"a body")
        case b"headers":
            return Answer(200, "", pack_headers([("X-Mine", "1"), ("content-type", "a/b")]), body)
        case b"break":
            return Answer(200, "", pack_headers([("X", "a\r\nb")]), body)
        case b"bug":  # no packed headers at all
            return Answer(200, "", b"\0\0", body)
        case b"stream" | b"broken stream head":
            stream = Stream(lambda: None)
            for part in (b"two", b"", b"three"):
                stream.push(part)
            stream.end()
            return Answer(200 if body == b"stream" else 99, "", b"", b"one", stream)
    return Answer(200, "", b"", body + b" %d" % len(request.params))


def access_fields(e: Edge) -> list[Sequence[object]]:
    """What the lines of the access log are made of; those of metrics have other lengths."""
    return [one for one in e.logs.fields if len(one) == len(ACCESS_FIELDS)]


def seen(e: Edge) -> dict[str, Any]:
    """What the core was asked and what the logs say, but for what no two requests share."""
    calls = [(model, version, *request[1:]) for model, version, request in e.inference.calls]
    lines = [re.sub(r"^\S+ (.*) \d+$", r"\1", line) for line in e.logs.access_lines]
    # Without client, milliseconds and request id.
    fields = [(*one[1:5], *one[7:]) for one in access_fields(e)]
    kinds = ["Requests2XX", "Requests4XX", "Requests5XX"]
    counts = re.sub(rb" \d{9,}", b"", e.recorder.render(kinds))
    return {
        "calls": calls,
        "kinds": e.inference.kinds,
        "lines": lines,
        "fields": fields,
        "counts": counts,
    }


async def run(steps: list[Step], kept: bool, **options: Any) -> tuple[list[Said], Edge]:
    """Send a sequence over one connection, or each request over a new one."""
    said: list[Said] = []
    async with edge(behaviour=behave, **options) as e, Kept(e) as client:
        for step in steps:
            if not kept:
                await client.close()
                await client.open()
            said.append(await client.ask(step.path, step.body, *step.lines, method=step.method))
        ids = [request.id for _, _, request in e.inference.calls]
        assert len(set(ids)) == len(ids)
        assert len({one.id for one in said}) == len(said)
        assert set(ids) <= {one.id for one in said}
    return said, e


async def alike(steps: list[Step], **options: Any) -> int:
    """Compare the two ways, and say how many requests needed no parser."""
    said, one = await run(steps, kept=True, **options)
    alone, each = await run(steps, kept=False, **options)
    assert [answer._replace(id=b"") for answer in said] == [a._replace(id=b"") for a in alone]
    assert seen(one) == seen(each)
    assert each.inference.submitted == 0
    return one.inference.submitted


FORM = ("Content-Type: application/x-www-form-urlencoded",)
PARTS = ("Content-Type: multipart/form-data; boundary=b",)
PART = b'--b\r\nContent-Disposition: form-data; name="n"\r\n\r\n%b\r\n--b--\r\n'
BODIES = [
    *(b"", b"x", b"other", b"fail", b"full", b"422", b"204", b"301", b"99", b"headers", b"break"),
    *(b"stream", b"broken stream head", b"x" * 100, b"a=%zz", b"0\r\n\r\n"),
]


@pytest.mark.parametrize("body", BODIES)
async def test_a_repeated_request_is_answered_as_it_would_be_alone(body: bytes) -> None:
    steps = [Step(M, b"a"), Step(M, b"b"), Step(M, body), Step(M, b"c"), Step(M, b"d")]
    assert await alike(steps, max_request_size=99) >= (2 if len(body) < 100 else 1)


@pytest.mark.parametrize("path", ["/explanations/m", M + "/2.0", M + "/2.0/a%00b/c?x=1", M + "?q"])
@pytest.mark.parametrize("method", ["POST", "PUT", "GET", "HEAD", "DELETE"])
async def test_each_spelling_of_a_prediction_may_be_repeated(path: str, method: str) -> None:
    lines = ("Authorization: Basic x", "X-Two: 1", "X-Two: \xfc")
    steps = [Step(path, body, lines, method) for body in (b"1", b"", b"stream", b"33", b"4" * 10)]
    assert await alike(steps) == 4


async def test_forms_are_cut_up_each_time() -> None:
    steps = [Step(M, body, FORM) for body in (b"a=1", b"a=2&b=%20", b"", b"a=%zz", b"a=3", b"c=4")]
    assert await alike(steps) == 3  # the fourth closed the connection before the core was asked
    steps = [Step(M, PART % body, PARTS) for body in (b"1", b"22", b"")] + [Step(M, b"no", PARTS)]
    assert await alike(steps) >= 2


async def test_requests_of_another_kind_in_between_are_answered_as_ever() -> None:
    steps = [
        Step(M, b"a"),
        *(Step("/ping", method="GET"), Step(M, b"b"), Step("/predictions/none", b"c")),
        *(Step(M, b"d"), Step(M, b"e"), Step(M, b"f", ("Expect: 100-continued",))),
        *(Step(M, b"g", ("X: y",)), Step(M, b"h"), Step(M, b"i"), Step("/nowhere", b"j")),
    ]
    assert await alike(steps) == 2


known = st.sampled_from([b"", b"x", b"fail", b"204", b"stream", b"break", b"x" * 30, b"full"])
paths = st.sampled_from([M, M, M, "/explanations/m", M + "/2.0/u", "/ping", "/nowhere"])
lines = st.sampled_from([(), (), FORM, ("X: y",), ("Connection: close",)])


@settings(max_examples=25)
@given(st.lists(st.builds(Step, paths, known, lines), min_size=2, max_size=8))
def test_any_sequence_is_answered_alike(steps: list[Step]) -> None:
    asyncio.run(alike(steps, max_request_size=20))


async def test_a_token_is_checked_each_time(tmp_path: Path) -> None:
    now = [time.time()]
    tokens = Tokens(tmp_path / "key_file.json", clock=lambda: now[0])
    tokens.open()
    header = tokens._keys["inference"].header.decode()
    async with edge(behaviour=behave, tokens=tokens) as e, Kept(e) as client:
        for body in (b"a", b"b"):
            said = await client.ask(M, body, f"Authorization: {header}")
            assert said.head.startswith(b"HTTP/1.1 200 ")
        assert e.inference.submitted == 1
        now[0] += 3600.0
        said = await client.ask(M, b"c", f"Authorization: {header}")
        assert said.head.startswith(b"HTTP/1.1 400 ")
        assert b"InvalidKeyException" in said.body
        assert said.closes
        assert [request.params[0].value for _, _, request in e.inference.calls] == [b"a", b"b"]
        assert access_fields(e)[-1][-2:] == (None, None)  # as any request that was not let in
    tokens.close()


async def test_a_request_is_found_its_model_each_time() -> None:
    async with edge(behaviour=behave) as e, Kept(e) as client:
        for body in (b"a", b"b"):
            assert (await client.ask(M, body)).body == body + b" 1"
        e.inference.find = lambda model, version: _gone()  # type: ignore[method-assign]
        said = await client.ask(M, b"c")
        assert said.head.startswith(b"HTTP/1.1 503 ")
        assert said.closes
        assert access_fields(e)[-1][-2:] == ("m", None)


def _gone() -> None:
    raise ServiceUnavailable("gone")


@pytest.mark.parametrize("where", ["ask", "answer"])
async def test_a_bug_is_a_500_and_a_log_entry(
    where: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(*_: object) -> None:
        raise ValueError("secret")

    async with edge(behaviour=behave) as e, Kept(e) as client:
        for body in (b"a", b"b"):
            await client.ask(M, body)
        if where == "ask":
            monkeypatch.setattr(e.inference, "submit", submit)
        said = await client.ask(M, b"bug")
        assert said.head.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
        assert said.closes
        assert b"its log holds the cause" in said.body
        assert "ValueError: " in caplog.text
        assert " 500 " in e.logs.access_lines[-1]
        assert (await client.ask(M, b"c")).body == b"c 1"
