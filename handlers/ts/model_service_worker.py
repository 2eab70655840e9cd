"""TorchServe's stock worker: loads one model and answers on TorchServe's wire, unix or tcp.

Our server starts its own workers (`ts_worker`); this one is for TorchServe's frontend and for tools
and tests that start or import it by name. ``python model_service_worker.py --sock-type unix
--sock-name PATH --metrics-config FILE``.
"""

from __future__ import annotations

import os
import sys

# Started as a script, Python puts this folder first, where `metrics` or `service` would be taken
# for top-level modules.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.curdir) != _HERE]
if __name__ == "__main__":
    sys.path.append(os.path.dirname(_HERE))

import contextlib  # noqa: E402
import logging  # noqa: E402
import platform  # noqa: E402
import socket  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from typing import Any, Dict, Iterator, Optional, Tuple  # noqa: E402

from ts.arg_parser import ArgParser  # noqa: E402
from ts.failures import text_of  # noqa: E402
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl  # noqa: E402
from ts.model_loader import ModelLoaderFactory  # noqa: E402
from ts.protocol.otf_message_handler import (  # noqa: E402
    LOAD_MSG,
    PREDICT_MSG,
    create_load_model_response,
    retrieve_msg,
)
from ts.service import Service  # noqa: E402

MAX_FAILURE_THRESHOLD = 5
SOCKET_ACCEPT_TIMEOUT = 30.0  # seconds
DEBUG = False
BENCHMARK = os.getenv("TS_BENCHMARK") in ("True", "true", "TRUE")
LOCAL_RANK = int(os.getenv("LOCAL_RANK", "0"))
WORLD_SIZE = int(os.getenv("WORLD_SIZE", "0"))
WORLD_RANK = int(os.getenv("RANK", "0"))
LOCAL_WORLD_SIZE = int(os.getenv("LOCAL_WORLD_SIZE", "0"))

Loaded = Tuple[Optional[Service], str, int]


class TorchModelServiceWorker:
    """One worker and its listening socket.

    Args:
        s_type: ``unix`` or ``tcp``.
        s_name: path of the unix socket; ends with a number, to which LOCAL_RANK is added.
        host_addr: address to listen at, 127.0.0.1 where None.
        port_num: tcp port, to which LOCAL_RANK is added.
        metrics_config: the server's metrics.yaml.
        async_comm: the handler is asynchronous; see `ts.async_service`.

    Raises:
        ValueError: the type, name or port is missing.
        RuntimeError: the unix socket is taken and can't be removed.
        MetricsCacheTypeError: no ``metrics_config``.
    """

    def __init__(
        self,
        s_type: Optional[str] = None,
        s_name: Optional[str] = None,
        host_addr: Optional[str] = None,
        port_num: Optional[int] = None,
        metrics_config: Optional[str] = None,
        async_comm: bool = False,
    ) -> None:
        if s_type is None:
            raise ValueError("Incomplete data provided")
        self.sock_type = s_type
        self.sock_name = ""
        self.host = host_addr or "127.0.0.1"
        self.port: Any = None
        self.async_comm = async_comm
        if s_type == "unix":
            if s_name is None:
                raise ValueError("Wrong arguments passed. No socket name given.")
            self.sock_name = _free_path(_of_rank(s_name))
        elif s_type == "tcp":
            if port_num is None:
                raise ValueError("Wrong arguments passed. No socket port given.")
            self.port = int(port_num) + LOCAL_RANK
        else:
            raise ValueError(f"Socket type {s_type!r} is unknown; use unix or tcp")
        self.metrics_cache = MetricsCacheYamlImpl(config_file_path=metrics_config)  # type: ignore[arg-type]
        self.metrics_cache.initialize_cache()
        family = socket.AF_UNIX if s_type == "unix" else socket.AF_INET
        self.sock = socket.socket(family, socket.SOCK_STREAM)

    def load_model(self, load_model_request: Dict[str, Any]) -> Loaded:
        """Load what a decoded load message names.

        Returns:
            The service, a message and 200; or None, a message and 507 for exhausted memory, 500 for
            another RuntimeError.

        Raises:
            Exception: any other error of the handler's code, as in TorchServe, whose frontend knows
                such a load from the closed connection.
        """
        text = {
            key: bytes(value).decode("utf-8")
            for key, value in load_model_request.items()
            if isinstance(value, (bytes, bytearray))
        }
        batch_size = load_model_request.get("batchSize")
        logging.info("model_name: %s, batchSize: %s", text["modelName"], batch_size)
        loader = ModelLoaderFactory.get_model_loader()
        loader.awaits = self.async_comm
        try:
            service = loader.load(
                text["modelName"],
                text["modelPath"],
                text.get("handler"),
                load_model_request.get("gpu"),
                batch_size,
                text.get("envelope") or None,
                bool(load_model_request.get("limitMaxImagePixels", True)),
                self.metrics_cache,
            )
        except MemoryError:
            logging.exception("Load model %s failed", text["modelName"])
            return None, "System out of memory", 507
        except RuntimeError as error:
            logging.exception("Load model %s failed", text["modelName"])
            if "CUDA" in text_of(error):
                return None, "System out of memory", 507
            return None, "Unknown exception", 500
        return service, f"loaded model {text['modelName']}", 200

    def handle_connection(self, cl_socket: Any) -> None:
        """Serve one connection: a load message, then predictions, until the server closes it.

        Raises:
            SystemExit: 0, when the server has closed the connection.
            RuntimeError: a prediction before a load, or a load that failed and was reported.
            ValueError: an unknown command.
        """
        service: Optional[Service] = None
        with _profile():
            while True:
                command, message = retrieve_msg(cl_socket)
                if command == LOAD_MSG:
                    service = self._load(cl_socket, message)
                elif command == PREDICT_MSG:
                    self._predict(cl_socket, service, message)
                else:
                    raise ValueError(f"Received unknown command: {command!r}")

    def handle_connection_async(self, cl_socket: Any) -> None:
        """As `handle_connection`, for a handler whose ``handle`` is a coroutine."""
        from ts.async_service import AsyncService

        self.async_comm = True  # the loader asks
        command, message = retrieve_msg(cl_socket)
        if command != LOAD_MSG:
            raise RuntimeError(f"Received command: {command!r}, but service is not loaded")
        service = self._load(cl_socket, message)
        service.set_cl_socket(cl_socket)
        AsyncService(service).run()

    def run_server(self) -> None:
        """Listen, tell the server on standard output, and serve its connection.

        Raises:
            SystemExit: 0 when the server has gone; 1 when none came within
                `SOCKET_ACCEPT_TIMEOUT`.
        """
        if not DEBUG:
            self.sock.settimeout(SOCKET_ACCEPT_TIMEOUT)
        self.sock.bind(self.sock_name if self.sock_type == "unix" else (self.host, self.port))
        self.sock.listen(1)
        if self.sock_type == "unix":
            logging.info("Listening on port: %s", self.sock_name)
        else:
            logging.info("Listening on addr:port: %s:%s", self.host, self.port)
        logging.info("Successfully loaded %s.", self.metrics_cache.config_file_path)
        # The server reads the pid from one line and connects after the other.
        logging.info("[PID]%d", os.getpid())
        logging.info("Torch worker started.")
        logging.info("Python runtime: %s", platform.python_version())
        try:
            connection, _ = self.sock.accept()
        except socket.timeout:  # noqa: UP041 - its own class before Python 3.10
            logging.error("Backend worker did not receive connection in: %d", SOCKET_ACCEPT_TIMEOUT)
            sys.exit(1)
        connection.setblocking(True)
        with connection:
            logging.info("Connection accepted: %s.", self.sock_name or self.port)
            serve = self.handle_connection_async if self.async_comm else self.handle_connection
            serve(connection)

    def _load(self, cl_socket: Any, message: Dict[str, Any]) -> Service:
        service, text, code = self.load_model(message)
        cl_socket.sendall(create_load_model_response(code, text))
        if service is None:
            raise RuntimeError(f"{code} - {text}")
        return service

    def _predict(self, cl_socket: Any, service: Optional[Service], batch: Any) -> None:
        if service is None:
            raise RuntimeError(f"Received command: {PREDICT_MSG!r}, but service is not loaded")
        logging.info("Backend received inference at: %d", time.time())
        service.set_cl_socket(cl_socket)
        reply = service.predict(batch)
        if reply is not None:
            cl_socket.sendall(reply)


def _of_rank(path: str) -> str:
    stem, _, number = path.rpartition(".")
    return f"{stem}.{int(number) + LOCAL_RANK}" if stem and number.isdigit() else path


def _free_path(path: str) -> str:
    with contextlib.suppress(OSError):
        os.remove(path)
    if os.path.exists(path):
        raise RuntimeError(f"socket already in use: {path}.")
    return path


@contextlib.contextmanager
def _profile() -> Iterator[None]:
    """With TS_BENCHMARK, write what Python's profiler saw of the connection."""
    if not BENCHMARK:
        yield
        return
    import cProfile

    profiler = cProfile.Profile()
    profiler.enable()
    try:
        yield
    finally:
        profiler.disable()
        profiler.dump_stats(os.path.join(tempfile.gettempdir(), "tsPythonProfile.prof"))


def main() -> None:
    """Run a worker with the command line's arguments; exit code 1 where it died."""
    logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)
    arguments = ArgParser.model_service_worker_args().parse_args()
    path: Optional[str] = None
    try:
        worker = TorchModelServiceWorker(
            arguments.sock_type,
            arguments.sock_name,
            arguments.host,
            arguments.port,
            arguments.metrics_config,
            arguments.async_comm,
        )
        path = worker.sock_name or None
        with worker.sock:
            worker.run_server()
    except Exception:
        logging.exception("Backend worker process died.")
        sys.exit(1)
    finally:
        if path is not None:
            with contextlib.suppress(OSError):
                os.remove(path)


if __name__ == "__main__":
    main()
