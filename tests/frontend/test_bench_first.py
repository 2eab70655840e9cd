"""`torchserve-py bench` asks once before it measures: what it says of the wrong server."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.frontend.bench_rig import read_on, refusal, server, target
from tests.frontend.http_fakes import edge
from ts_frontend.bench.first import check
from ts_frontend.bench.plan import Input, Target
from ts_frontend.core.job import Answer
from ts_frontend.http.tokens import Tokens
from ts_worker.messages import Request


async def test_a_good_first_answer_is_no_error() -> None:
    async with edge() as served:
        await check(target(served.port, Input(b"a", expect=b"a"), Input(b"b")), "http://it", None)

        assert len(served.inference.calls) == 2


async def test_an_unknown_model_is_named() -> None:
    async with edge() as served:
        aimed = Target("127.0.0.1", served.port, "/predictions/nope", (Input(),))

        assert (await refusal(aimed)).startswith("Model not found: nope: GET /models at the")


async def test_the_wrong_address_is_named() -> None:
    async with edge() as served:
        text = await refusal(target(served.listeners[1].port))

    assert text.startswith("http://it doesn't serve predictions (")


async def test_a_token_is_needed_or_wrong(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "key_file.json", fixed={"inference": "right"})
    tokens.open()
    async with edge(tokens=tokens) as served:
        assert "needs a token: give --token" in await refusal(target(served.port))
        wrong = target(served.port, token="wrong")
        assert "refuses the token of --token" in await refusal(wrong, "--token")
        await check(target(served.port, token="right"), "http://it", None)
    tokens.close()


async def test_a_server_that_is_not_there_is_named() -> None:
    async with server(read_on) as port:
        pass

    text = await refusal(target(port))

    assert text.startswith("http://it: can't connect: Connection refused: start the server, or")


async def test_a_missing_socket_is_named(tmp_path: Path) -> None:
    text = await refusal(target(0, unix=str(tmp_path / "s")))

    assert text.startswith("http://it: can't connect: No such file or directory")


async def test_what_speaks_no_http_is_named() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        await reader.read()

    async with server(talk) as port:
        assert "no HTTP answer: is that the inference address" in await refusal(target(port))


async def test_plain_http_at_an_https_address_is_named() -> None:
    async with edge() as served:
        text = await refusal(target(served.port, tls=True))

    assert "TLS: " in text
    assert text.endswith("is that an https address?")


async def test_another_first_answer_than_expected_is_refused() -> None:
    async with edge() as served:
        text = await refusal(target(served.port, Input(b"a", expect=b"b")))

    assert text == "the answer to input 1 is not the expected one: 1 bytes, not 1: a"


async def test_any_other_status_is_shown_with_its_message() -> None:
    async def broken(_request: Request) -> Answer:
        return Answer(500, "", b"", b"out of memory")

    async with edge(behaviour=broken) as served:
        text = await refusal(target(served.port))

    assert text == "a first request to http://it got status 500: out of memory"


async def test_no_answer_to_the_first_request_is_named() -> None:
    async with server(read_on) as port:
        text = await refusal(target(port, timeout=0.05))

    assert text == "http://it: no answer in 0.05 s; see --timeout"
