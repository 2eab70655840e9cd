"""A loaded model that answers batches: calls the handler, maps its errors, serialises results.

The worker's runtime drives `infer`; `predict` is TorchServe's own entry, bytes on its wire.
"""

from __future__ import annotations

import copy
import logging
import time
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional

from ts.context import Batch, CancelProbe, ChunkSink, Context
from ts.failures import failure
from ts.held_metrics import HeldMetrics
from ts.isolation import Part, settle
from ts.model_config import isolates_errors, read_model_config
from ts.prediction import STREAM_NEXT, Outcome, Prediction, mark_stream, prediction
from ts.preparation import Preparation, handler_of, preparation
from ts.utils.util import PredictionException
from ts.version import __version__

__all__ = [
    "PREDICTION_METRIC",
    "Outcome",
    "Prediction",
    "PredictionException",
    "Service",
    "emit_metrics",
]

PREDICTION_METRIC = "PredictionTime"

logger = logging.getLogger(__name__)


class Service:
    """One model, ready to answer.

    Args:
        entry_point: the handler's ``handle(data, context)``.
        gpu: CUDA ordinal of this worker or None.
        Others as in `Context`.

    Raises:
        ValueError: the model's yaml is missing or is not valid.
    """

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Optional[Dict[str, Any]],
        entry_point: Optional[Callable[[Any, Context], Any]],
        gpu: Optional[int],
        batch_size: Optional[int],
        limit_max_image_pixels: bool = True,
        metrics_cache: Any = None,
    ) -> None:
        self._context = Context(
            model_name,
            model_dir,
            manifest,
            batch_size,
            gpu,
            __version__,
            limit_max_image_pixels,
            metrics_cache,
            read_model_config(model_dir, manifest),
        )
        self._entry_point: Any = entry_point
        self._isolate = isolates_errors(self._context.model_yaml_config)
        self._runs_again = True
        self._preparation: Optional[Preparation] = None

    @property
    def context(self) -> Context:
        return self._context

    @property
    def handler(self) -> Any:
        """The handler's object; None where it is a function."""
        return handler_of(self._entry_point)

    def set_chunk_sink(self, sink: Optional[ChunkSink]) -> None:
        """Where streamed parts go: ``sink(request_id, status, reason, headers, body)``."""
        self._context._chunk_sink = sink

    def set_cancel_probe(self, probe: Optional[CancelProbe]) -> None:
        """How `Context.is_cancelled` finds out: ``probe(request_id)``."""
        self._context._cancel_probe = probe

    def set_cl_socket(self, sock: Any) -> None:
        """TorchServe's way of streaming: parts are written to this socket on its wire."""
        self._context.cl_socket = sock

    def expect_batches_ahead(self, prefetch: bool) -> None:
        """Say, once the handler is initialised, whether `prepare` will be called."""
        config = self._context.model_yaml_config
        self._preparation = preparation(self._entry_point, config, prefetch)

    def run_nothing_again(self) -> bool:
        """Let one call settle a batch: what fails in it fails as a whole, whoever is to blame.

        Returns:
            Whether the model asks for ``isolateErrors``, which has no effect now.
        """
        self._runs_again = False
        return self._isolate

    def prepare(
        self, headers: List[Dict[str, Any]], rows: List[Dict[str, Any]]
    ) -> List[Dict[str, Any]]:
        """Begin with a batch that waits: run `preprocess` on it where the handler allows that.

        Called in a thread while `infer` runs another batch.

        Returns:
            The rows to give to `infer`.
        """
        if self._preparation is None or any(head.get("describe") == "True" for head in headers):
            return rows
        return self._preparation.run(rows)

    def infer(
        self,
        headers: List[Dict[str, Any]],
        rows: List[Dict[str, Any]],
        request_ids: Dict[int, str],
    ) -> Outcome:
        """Run one batch. All three arguments have one entry per request, in order.

        Never raises what the handler raised: the codes and messages are TorchServe's, and the
        traceback goes to the log. SystemExit and KeyboardInterrupt pass. Where the outcome is no
        success, `settle` finds out who of the batch can be answered all the same, and logs the
        metrics that the outcome holds.
        """
        outcome = self._attempt((headers, rows, request_ids))
        if outcome.code == 200:
            _record(self._context, outcome.took)
            if self._preparation is not None:
                self._preparation.check(rows)
        return outcome

    def run(
        self,
        headers: List[Dict[str, Any]],
        rows: List[Dict[str, Any]],
        request_ids: Dict[int, str],
    ) -> Outcome:
        """`infer` for warm-up and tools: what the handler raises passes, the time of the batch is
        not recorded, nothing is run again."""
        _begin(self._context, headers, request_ids)
        start = time.perf_counter()
        return _judged(self._context, self._entry_point(rows, self._context), start)

    def settle(
        self,
        failed: Outcome,
        request_ids: Dict[int, str],
        pick: Callable[[List[int]], Batch],
    ) -> Iterator[Part]:
        """Answer each request of a batch for which `infer` came to ``failed``; see `isolation`.

        Args:
            request_ids: of the whole batch.
            pick: makes headers, rows and request ids of some requests, by their numbers. They are
                made anew for each call: the handler may have changed those it got.
        """
        if not self._runs_again:
            yield Part(list(request_ids), failed)
            return
        took = []
        held = failed.held or HeldMetrics()

        def attempt(numbers: List[int]) -> Outcome:
            held.drop(request_ids[number] for number in numbers)
            outcome = self._attempt(pick(numbers), again=True)
            if outcome.code == 200:
                took.append(outcome.took)
            elif outcome.held is not None:
                held.add(outcome.held)
            return outcome

        try:
            yield from settle(failed, len(request_ids), attempt, self._has_begun, self._isolate)
        finally:
            held.release()
        if took and self._context.metrics is not None:
            self._context.metrics.set_request_ids(request_ids)
            _record(self._context, round(sum(took), 2))

    def _attempt(self, batch: Batch, again: bool = False) -> Outcome:
        """A call whose metrics wait until it is known whether rows of it are run again."""
        if len(batch[1]) < 2 or not self._runs_again:
            return self._call(batch, again)
        held = HeldMetrics()
        with held.during():
            outcome = self._call(batch, again)
        if outcome.code != 200 and (outcome.blamed or self._isolate):
            return outcome._replace(held=held)
        held.release()
        return outcome

    def _call(self, batch: Batch, again: bool) -> Outcome:
        try:
            return self.run(*batch)
        except Exception as error:
            return failure(error, batch[2], again)

    async def infer_async(
        self,
        headers: List[Dict[str, Any]],
        rows: List[Dict[str, Any]],
        request_ids: Dict[int, str],
    ) -> Outcome:
        """`infer` for handlers whose ``handle`` is a coroutine; several batches may be under way.

        Each gets a copy of the context, so that they do not see each other's requests.
        """
        start = time.perf_counter()
        try:
            context = copy.deepcopy(self._context)
            _begin(context, headers, request_ids)
            outcome = _judged(context, await self._entry_point(rows, context), start)
        except Exception as error:
            return failure(error, request_ids)
        if outcome.code == 200:
            _record(context, outcome.took)
        return outcome

    def _has_begun(self, idx: int) -> bool:
        """Whether a part of this row's answer has been streamed in the last call."""
        return STREAM_NEXT in self._context.get_response_headers(idx)

    @staticmethod
    def retrieve_data_for_inference(batch: Optional[List[Dict[str, Any]]]) -> Batch:
        """Split a decoded message of TorchServe's wire into headers, rows and request ids."""
        from ts.protocol.batches import split

        return split(batch)

    def predict(self, batch: List[Dict[str, Any]]) -> Optional[bytearray]:
        """Answer a decoded message of TorchServe's wire with the bytes of its reply."""
        from ts.protocol.batches import answer

        return answer(self, batch)


def emit_metrics(metrics: Iterable[Any]) -> None:
    """Log each metric on a line that TorchServe's log readers know."""
    for metric in metrics:
        logger.info("[METRICS]%s", metric)


def _begin(context: Context, headers: List[Dict[str, Any]], request_ids: Dict[int, str]) -> None:
    context.start_batch(headers, request_ids)
    if context.metrics is not None:
        context.metrics.set_request_ids(request_ids)


def _judged(context: Context, result: Any, start: float) -> Outcome:
    """The outcome of a handler that returned; ``start`` is the performance counter's before it."""
    took = round((time.perf_counter() - start) * 1000, 2)
    count = len(context.request_ids or ())
    if not isinstance(result, list):
        return _refused("Invalid model predict output", type(result).__name__)
    if len(result) != count:
        counts = f"{len(result)} results for {count} requests"
        return _refused("number of batch response mismatched", counts)
    predictions = [_answer(context, idx, value) for idx, value in enumerate(result)]
    return Outcome(200, "Prediction success", predictions, took=took)


def _record(context: Context, took: float) -> None:
    if context.metrics is not None:
        context.metrics.add_time(PREDICTION_METRIC, took, None, "ms")


def _answer(context: Context, idx: int, value: Any) -> Prediction:
    mark_stream(context, idx, value)
    return prediction(context, idx, value)


def _refused(message: str, found: str) -> Outcome:
    logger.error("%s: %s", message, found)
    return Outcome(503, message, [])
