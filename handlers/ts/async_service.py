"""Asynchronous handlers on TorchServe's worker wire: many requests under way at once.

`ts.model_service_worker` uses it when it was started with ``--async``.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import types
import warnings
from typing import Any, Dict, List, Optional, Set

from ts.protocol.otf_message_handler import PREDICT_MSG, encode_predictions, retrieve_msg
from ts.service import Service

logger = logging.getLogger(__name__)


async def predict(self: Service, batch: List[Dict[str, Any]]) -> Optional[bytearray]:
    """`Service.predict` for a handler whose ``handle`` is a coroutine."""
    headers, rows, request_ids = Service.retrieve_data_for_inference(batch)
    outcome = await self.infer_async(headers, rows, request_ids)
    return encode_predictions(request_ids, outcome.predictions, outcome.message, outcome.code)


class AsyncService:
    """Answers a loaded model's requests in the order in which they are done.

    Args:
        service: has its connection already (`Service.set_cl_socket`); its `predict` becomes the
            coroutine above.
    """

    def __init__(self, service: Service) -> None:
        self.service = service
        service.predict = types.MethodType(predict, service)  # type: ignore[method-assign]

    def run(self) -> None:
        """Serve until the server closes the connection.

        Raises:
            SystemExit: always, in the end: 0 after the server has gone.
        """
        connection = self.service.context.cl_socket
        outbox = _Outbox(connection)
        self.service.set_cl_socket(outbox)
        try:
            _Requests(self.service, connection, outbox).run(main_loop())
        finally:
            outbox.close()


class _Outbox:
    """Replies and streamed parts on their way out, one whole message at a time.

    Handlers see it as `context.cl_socket`; a thread of its own waits for the socket.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._messages: Any = queue.Queue()
        self._thread = threading.Thread(target=self._send, name="replies", daemon=True)
        self._thread.start()

    def sendall(self, message: Any) -> None:
        self._messages.put(message)

    def close(self) -> None:
        self._messages.put(None)
        self._thread.join()

    def _send(self) -> None:
        for message in iter(self._messages.get, None):
            try:
                self._connection.sendall(message)
            except OSError as error:
                logger.warning("The reply can't be sent: %s", error)


class _Requests:
    """Messages from the server, each answered by a task of the event loop."""

    def __init__(self, service: Service, connection: Any, outbox: _Outbox) -> None:
        self._service = service
        self._connection = connection
        self._outbox = outbox
        self._tasks: Set[Any] = set()  # the loop itself holds tasks only weakly
        self._end: BaseException = SystemExit(0)

    def run(self, loop: asyncio.AbstractEventLoop) -> None:
        receiver = threading.Thread(
            target=self._receive, args=(loop,), name="requests", daemon=True
        )
        receiver.start()
        loop.run_forever()
        receiver.join()
        for task in self._tasks:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        raise self._end

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while True:
                command, message = retrieve_msg(self._connection)
                if command != PREDICT_MSG:
                    raise ValueError(f"Received unknown command: {command!r}")
                loop.call_soon_threadsafe(self._start, loop, message)
        except BaseException as error:  # raised again by the main thread, SystemExit too
            self._end = error
        finally:
            loop.call_soon_threadsafe(loop.stop)

    def _start(self, loop: asyncio.AbstractEventLoop, batch: List[Dict[str, Any]]) -> None:
        task = loop.create_task(self._answer(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, batch: List[Dict[str, Any]]) -> None:
        reply = await self._service.predict(batch)  # type: ignore[misc]
        if reply is not None:
            self._outbox.sendall(reply)


def main_loop() -> asyncio.AbstractEventLoop:
    """The main thread's event loop, the one that a handler's `initialize` may have used."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return asyncio.get_event_loop()
        except RuntimeError:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
            return loop
