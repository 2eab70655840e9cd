"""A loaded model that answers batches: calls the handler, maps its errors, serialises results.

The worker's runtime drives `infer`; `predict` is TorchServe's own entry, bytes on its wire.
"""

from __future__ import annotations

import copy
import logging
import os
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from ts.context import CancelProbe, ChunkSink, Context
from ts.prediction import (
    UNSUPPORTED_OUTPUT,
    Outcome,
    Prediction,
    UnsupportedOutput,
    mark_stream,
    prediction,
)
from ts.utils.util import PredictionException, get_yaml_config
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
            _model_yaml(model_dir, manifest),
        )
        self._entry_point: Any = entry_point

    @property
    def context(self) -> Context:
        return self._context

    def set_chunk_sink(self, sink: Optional[ChunkSink]) -> None:
        """Where streamed parts go: ``sink(request_id, status, reason, headers, body)``."""
        self._context._chunk_sink = sink

    def set_cancel_probe(self, probe: Optional[CancelProbe]) -> None:
        """How `Context.is_cancelled` finds out: ``probe(request_id)``."""
        self._context._cancel_probe = probe

    def set_cl_socket(self, sock: Any) -> None:
        """TorchServe's way of streaming: parts are written to this socket on its wire."""
        self._context.cl_socket = sock

    def infer(
        self,
        headers: List[Dict[str, Any]],
        rows: List[Dict[str, Any]],
        request_ids: Dict[int, str],
    ) -> Outcome:
        """Run one batch. All three arguments have one entry per request, in order.

        Never raises what the handler raised: the codes and messages are TorchServe's, and the
        traceback goes to the log. SystemExit and KeyboardInterrupt pass.
        """
        context = self._context
        _begin(context, headers, request_ids)
        start = time.perf_counter()
        try:
            return _judged(context, self._entry_point(rows, context), start)
        except Exception as error:
            return _failed(error)

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
            return _judged(context, await self._entry_point(rows, context), start)
        except Exception as error:
            return _failed(error)

    @staticmethod
    def retrieve_data_for_inference(
        batch: Optional[List[Dict[str, Any]]],
    ) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]], Dict[int, str]]:
        """Split a decoded message of TorchServe's wire into headers, rows and request ids."""
        if batch is None:
            raise ValueError("Received invalid inputs")
        headers, rows, request_ids = [], [], {}
        for idx, request in enumerate(batch):
            request_ids[idx] = request["requestId"].decode("utf-8")
            row, header = {}, {}
            for parameter in request["parameters"]:
                row[parameter["name"]] = parameter["value"]
                header[parameter["name"]] = {"content-type": parameter["contentType"]}
            for pair in request.get("headers") or ():
                header[pair["name"].decode("utf-8")] = pair["value"].decode("utf-8")
            rows.append(row)
            headers.append(header)
        return headers, rows, request_ids

    def predict(self, batch: List[Dict[str, Any]]) -> Optional[bytearray]:
        """Answer a decoded message of TorchServe's wire with the bytes of its reply."""
        from ts.protocol.otf_message_handler import encode_predictions

        headers, rows, request_ids = self.retrieve_data_for_inference(batch)
        outcome = self.infer(headers, rows, request_ids)
        return encode_predictions(request_ids, outcome.predictions, outcome.message, outcome.code)


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
    elapsed = round((time.perf_counter() - start) * 1000, 2)
    count = len(context.request_ids or ())
    if not isinstance(result, list):
        return _refused("Invalid model predict output", type(result).__name__)
    if len(result) != count:
        counts = f"{len(result)} results for {count} requests"
        return _refused("number of batch response mismatched", counts)
    predictions = [_answer(context, idx, value) for idx, value in enumerate(result)]
    if context.metrics is not None:
        context.metrics.add_time(PREDICTION_METRIC, elapsed, None, "ms")
    return Outcome(200, "Prediction success", predictions)


def _answer(context: Context, idx: int, value: Any) -> Prediction:
    mark_stream(context, idx, value)
    return prediction(context, idx, value)


def _refused(message: str, found: str) -> Outcome:
    logger.error("%s: %s", message, found)
    return Outcome(503, message, [])


def _failed(error: Exception) -> Outcome:
    """TorchServe's table of handler errors."""
    if isinstance(error, MemoryError):
        logger.error("System out of memory", exc_info=error)
        return Outcome(507, "Out of resources", [])
    if isinstance(error, PredictionException):
        logger.error("Prediction error", exc_info=error)
        return Outcome(_code(error.error_code), str(error.message), [])
    if isinstance(error, UnsupportedOutput):
        logger.error(UNSUPPORTED_OUTPUT, exc_info=error)
        return Outcome(503, UNSUPPORTED_OUTPUT, [])
    if "CUDA" in str(error):
        logger.error("CUDA out of memory", exc_info=error)
        return Outcome(507, "Out of resources", [])
    logger.warning("Invoking custom service failed.", exc_info=error)
    return Outcome(503, "Prediction failed", [])


def _code(value: Any) -> int:
    try:
        code = int(value)
    except (TypeError, ValueError, OverflowError):
        return 500
    # 200 would promise one answer per request, and there is none.
    return code if 100 <= code <= 599 and code != 200 else 500


def _model_yaml(model_dir: str, manifest: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    name = (manifest or {}).get("model", {}).get("configFile")
    if not name:
        return {}
    path = os.path.join(model_dir, name)
    try:
        config = get_yaml_config(path)
    except OSError as error:
        raise ValueError(
            f"The model's config file {path} cannot be read: {error.strerror}. "
            "Pack it again with --config-file."
        ) from error
    # An empty file is an empty configuration; TorchServe's handlers fail on None.
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping of keys, found {type(config).__name__}")
    return config
