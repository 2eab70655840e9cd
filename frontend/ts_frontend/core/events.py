"""Where a worker's log lines, metrics and calls to other models go; one object per worker.

`supervisor` makes one for each slot and hands it to the backend as `WorkerEvents`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ts_frontend.core.inference import Inference
from ts_frontend.core.meter import Meter, ModelLog
from ts_frontend.core.metric_lines import metric_of
from ts_frontend.errors import ServeError
from ts_worker.messages import Call, CallReply, Log, Metric, Response

CallAnswerer = Callable[[Call], Awaitable[CallReply]]

_STREAM_LEVELS = {"stdout": logging.INFO, "stderr": logging.WARNING}


class Reports:
    """Implements `ts_worker.backend.base.WorkerEvents`.

    Args:
        worker: the worker's name in logs and metrics, ``W-9000-resnet_1.0``.
        model: its model's name.
        version: its model's version.
        rank: of the process that tells, where the worker has several.
        pids: of the worker's processes by rank, shared by all that tell for it.
    """

    def __init__(
        self,
        worker: str,
        model: str,
        version: str,
        log: ModelLog,
        meter: Meter,
        answer: CallAnswerer,
        *,
        rank: int = 0,
        pids: dict[int, int] | None = None,
    ) -> None:
        self._worker = worker
        self._model = model
        self._version = version
        self._log = log
        self._meter = meter
        self._answer = answer
        self._rank = rank
        self._pids = {} if pids is None else pids

    @property
    def pids(self) -> tuple[int, ...]:
        """The worker's processes, that of rank 0 first; empty between two of its lives."""
        return tuple(self._pids[rank] for rank in sorted(self._pids))

    def started(self, pid: int) -> None:
        self._pids[self._rank] = pid

    def ended(self) -> None:
        """The worker has no process any more."""
        self._pids.clear()

    def of_rank(self, rank: int) -> Reports:
        return Reports(
            f"{self._worker}-rank{rank}",
            self._model,
            self._version,
            self._log,
            self._meter,
            self._answer,
            rank=rank,
            pids=self._pids,
        )

    def output(self, stream: str, line: str) -> None:
        if stream == "stdout" and self._observed(line):
            return
        self._tell(stream, _STREAM_LEVELS.get(stream, logging.INFO), line, "")

    def log(self, record: Log) -> None:
        if self._observed(record.text):
            return
        # TorchServe's workers log to stdout, so that is the thread column of these lines.
        self._tell("stdout", record.level, record.text, record.request_ids)

    def metric(self, metric: Metric) -> None:
        self._meter.model_metric(metric, self._model, self._version)

    def _observed(self, line: str) -> bool:
        """Take a line that tells a metric out of the log and record it."""
        metric = metric_of(line)
        if metric is not None:
            self._meter.model_metric(metric, self._model, self._version)
        return metric is not None

    async def call(self, call: Call) -> CallReply:
        return await self._answer(call)

    def _tell(self, stream: str, level: int, text: str, request_ids: str) -> None:
        self._log.model(
            self._worker,
            stream,
            level,
            text,
            model=self._model,
            version=self._version,
            request_ids=request_ids,
        )


def answer_calls(inference: Inference) -> CallAnswerer:
    """Lets a handler call another model by the front door; a streamed answer comes whole."""

    async def answer(call: Call) -> CallReply:
        try:
            reply = await inference.predict(
                call.model_name, call.model_version or None, call.request
            )
            body = reply.body
            if reply.chunks is not None:
                body = b"".join([bytes(body), *[bytes(part) async for part in reply.chunks]])
        except ServeError as error:
            return CallReply(call.call_id, error.status, error.message, None)
        response = Response(call.request.id, reply.status, reply.reason, reply.headers, body)
        return CallReply(call.call_id, 200, "", response)

    return answer
