"""Runs a batch and sends what it came to. Called by `loop`, once for each batch.

One reply answers a batch that went well; one that did not may take several.
"""

from __future__ import annotations

import logging
from typing import Any, List, Optional, Protocol, Tuple

from ts_worker.messages import Predict, Reply, Request, Response, pack_headers
from ts_worker.runtime.channel import Closed
from ts_worker.runtime.logs import FrameHandler
from ts_worker.runtime.prefetch import Prefetch
from ts_worker.runtime.rows import rows_of

log = logging.getLogger(__name__)


class ReplySender(Protocol):
    """Who takes the answers: the channel, but for ranks other than 0."""

    def send(self, message: Reply) -> None: ...


class Unheard:
    """Takes the answers of a rank other than 0. The server learns that the rank is done with a
    batch, and not what it came to there."""

    def __init__(self, channel: ReplySender) -> None:
        self._channel = channel

    def send(self, message: Reply) -> None:
        done = tuple(Response(one.request_id, 200, "", b"", b"") for one in message.responses)
        self._channel.send(message._replace(responses=done))


def answer(
    channel: ReplySender,
    service: Any,
    batch: Predict,
    decode: bool,
    records: FrameHandler,
    prefetch: Optional[Prefetch] = None,
) -> None:
    """Answer a batch in any case: a worker that ended over one request would take others along."""
    try:
        rows = rows_of(batch.requests, decode) if prefetch is None else prefetch.rows(batch)
        outcome = service.infer(*rows)
        if outcome.code == 200:
            _succeed(channel, batch.batch_id, batch.requests, outcome)
        else:
            records.batching = False  # no single reply follows that metrics could wait for
            _settle(channel, service, batch, decode, outcome)
    except Closed:
        raise
    except Exception:
        log.exception("A batch can't be answered")
        channel.send(Reply(batch.batch_id, 503, "Prediction failed", ()))


def _settle(channel: ReplySender, service: Any, batch: Predict, decode: bool, failed: Any) -> None:
    """Send each part of a batch that failed as soon as it is known: the server's time limit for
    a worker's answer begins anew with each."""
    requests = batch.requests
    ids = {number: request.id.decode("ascii") for number, request in enumerate(requests)}

    def pick(numbers: List[int]) -> Any:
        return rows_of(tuple(requests[number] for number in numbers), decode)

    for numbers, outcome in service.settle(failed, ids, pick):
        some = tuple(requests[number] for number in numbers)
        if not some:  # nothing is settled yet: a sign of life
            channel.send(Reply(batch.batch_id, 200, "", ()))
        elif outcome.code == 200:
            _succeed(channel, batch.batch_id, some, outcome)
        else:
            all_of_it = len(some) == len(requests)
            named = () if all_of_it else tuple(_named(one, outcome.code) for one in some)
            channel.send(Reply(batch.batch_id, outcome.code, outcome.message, named))


def _named(request: Request, code: int) -> Response:
    return Response(request.id, code, "", b"", b"")


def _succeed(
    channel: ReplySender, batch_id: int, requests: Tuple[Request, ...], outcome: Any
) -> None:
    if len(outcome.predictions) != len(requests):
        channel.send(Reply(batch_id, 500, outcome.message, ()))
    else:
        _send(channel, batch_id, list(zip(requests, outcome.predictions)))


def _send(channel: ReplySender, batch_id: int, answers: List[Tuple[Request, Any]]) -> None:
    """Send answers in one reply, or one by one where that can't be: the user's code may have set a
    header, a reason or a status that is none, for one of them."""
    try:
        channel.send(Reply(batch_id, 200, "", tuple(_response(*one) for one in answers)))
    except Closed:
        raise
    except Exception:
        if len(answers) > 1:
            for one in answers:
                _send(channel, batch_id, [one])
            return
        request, _ = answers[0]
        log.exception("The answer to request %s can't be sent", request.id.decode("ascii"))
        channel.send(Reply(batch_id, 503, "Prediction failed", (_named(request, 503),)))


def _response(request: Request, prediction: Any) -> Response:
    headers = prediction.headers
    return Response(
        request.id,
        prediction.status,
        prediction.reason,
        pack_headers(list(headers.items())) if headers else b"",
        prediction.body,
    )
