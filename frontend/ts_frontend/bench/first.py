"""A first request for each input: what is wrong is said once, with its cure, and not measured."""

from __future__ import annotations

import asyncio
import json

from ts_frontend.bench.answer import Answer
from ts_frontend.bench.connection import Connection, tls
from ts_frontend.bench.errors import BenchError, LostConnection
from ts_frontend.bench.plan import Target


async def check(target: Target, shown: str, token_from: str | None) -> None:
    """Send each input once.

    Args:
        shown: the server's address, for messages.
        token_from: where the token is from; None where there is none.

    Raises:
        BenchError: an answer is not as it should be.
    """
    context = tls(target)
    for index, request in enumerate(target.requests()):
        came: asyncio.Future[Answer | LostConnection] = asyncio.get_running_loop().create_future()
        connection = Connection(target, context, lambda _, outcome, to=came: to.set_result(outcome))  # type: ignore[misc]
        try:
            async with asyncio.timeout(target.timeout):
                connection.send(request, index, 0.0)
                outcome = await came
        except TimeoutError:
            outcome = LostConnection(f"no answer in {target.timeout:g} s; see --timeout")
        finally:
            await connection.close()
        if isinstance(outcome, LostConnection):
            raise BenchError(_lost(str(outcome), shown))
        if outcome.status != 200:
            raise BenchError(_refused(outcome, shown, token_from))
        expect = target.inputs[index].expect
        if expect is not None and outcome.body != expect:
            raise BenchError(
                f"the answer to input {index + 1} is not the expected one: {len(outcome.body)} "
                f"bytes, not {len(expect)}: {outcome.text()}"
            )


def _lost(reason: str, shown: str) -> str:
    if reason.startswith("TLS: ") and "certificate" in reason:
        cure = "--insecure takes any certificate"
    elif reason.startswith("TLS: "):
        cure = "is that an https address?"
    elif reason.startswith("can't connect"):
        cure = "start the server, or give its inference address by --url or --unix"
    elif reason == "no HTTP answer":
        cure = "is that the inference address, and http, not https or gRPC?"
    else:
        return f"{shown}: {reason}"
    return f"{shown}: {reason}: {cure}"


def _refused(answer: Answer, shown: str, token_from: str | None) -> str:
    text = answer.text()
    kind = _type(answer.body)
    if kind == "InvalidKeyException":
        if token_from is None:
            return f"{shown} needs a token: give --token, or --key-file with the server's key file"
        return (
            f"{shown} refuses the token of {token_from}: it has expired (keys last an hour unless "
            "configured otherwise), is another server's, or this is not the inference address"
        )
    if kind in ("ModelNotFoundException", "ModelVersionNotFoundException"):
        return f"{text}: GET /models at the management address lists what {shown} has"
    if kind == "ResourceNotFoundException" or answer.status in (404, 405):
        return f"{shown} doesn't serve predictions ({text}): give the inference address by --url"
    return f"a first request to {shown} got status {answer.status}: {text}"


def _type(body: bytes) -> str | None:
    try:
        fields = json.loads(body)
    except ValueError:
        return None
    return fields.get("type") if isinstance(fields, dict) else None
