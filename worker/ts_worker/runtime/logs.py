"""Where a handler's log records and metrics go: frames to the server.

Installed once by `loop` before the model is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from typing import Any, Iterator, Tuple

from ts_worker.messages import Log, Metric, Request
from ts_worker.runtime.channel import Channel, Closed


class FrameHandler(logging.Handler):
    """Sends every record as a frame; a metric record waits for the reply it belongs to.

    A record that carries ``metric`` (see `ts.metrics.caching_metric`) is never formatted.
    """

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        self._thread = threading.get_ident()  # which runs the handler
        self.batch: Tuple[Request, ...] = ()  # that runs
        self.batching = False  # whether a reply will follow soon
        self._measuring = True

    def begin(self, batch: Tuple[Request, ...]) -> None:
        """These requests are run from now on: metrics wait for their reply, records name them."""
        self.batch = batch
        self.batching = True

    def end(self) -> None:
        """They have been answered."""
        self.batch = ()
        self.batching = False

    @contextlib.contextmanager
    def unmeasured(self) -> Iterator[None]:
        """Drop the metrics that are recorded meanwhile: they are of no client's request."""
        self._measuring = False
        try:
            yield
        finally:
            self._measuring = True

    def emit(self, record: logging.LogRecord) -> None:
        metric = getattr(record, "metric", None)
        if metric is not None:
            self.observe(metric)
            return
        try:
            if not self._measuring and _tells_metric(record):
                return
            text = self.format(record)
            ids = self._request_ids() if record.thread == self._thread else ""
            self._channel.send(Log(record.levelno, record.name, text, ids))
        except Closed:
            pass  # the loop notices by itself
        except Exception:  # the record holds the user's objects; a log call raises nothing
            self.handleError(record)

    def observe(self, metric: Tuple[Any, ...]) -> None:
        """Take one observation: name, unit, type, value, pairs of label and value, request ids."""
        if not self._measuring:
            return
        try:
            name, unit, kind, value, dimensions, request_ids = metric
            message = Metric(
                str(name),
                str(unit),
                kind,
                float(value),
                tuple([(str(key), str(label)) for key, label in dimensions]),
                str(request_ids),
            )
            if self.batching:
                self._channel.send_later(message)
            else:
                self._channel.send(message)
        except Closed:
            pass
        except Exception:
            self.handleError(logging.makeLogRecord({"msg": "a metric", "metric": metric}))

    def _request_ids(self) -> str:
        return ",".join([request.id.decode("ascii", "replace") for request in self.batch])


def install(channel: Channel) -> FrameHandler:
    """Make a `FrameHandler` the root logger's only handler, at INFO as in TorchServe."""
    handler = FrameHandler(channel)
    children = logging.StreamHandler(sys.stdout)
    children.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    os.register_at_fork(after_in_child=lambda: _detach(channel, handler, children))
    return handler


def _tells_metric(record: logging.LogRecord) -> bool:
    # As `ts.service.emit_metrics` writes them, which the server reads as metrics.
    return isinstance(record.msg, str) and record.msg.startswith("[METRICS]")


def _detach(channel: Channel, ours: logging.Handler, instead: logging.Handler) -> None:
    """In a child that a handler forked: log as TorchServe's workers do, on stdout, where the server
    takes the lines of metrics for metrics, and leave the connection to the parent.

    Two writers would mix their frames, and an open copy would outlive the worker. A SIGTERM ends
    it, as `multiprocessing` expects of its children, though not the worker.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    handlers = logging.getLogger().handlers  # the user's own stay
    handlers[:] = [instead if one is ours else one for one in handlers]
    channel.abandon()
