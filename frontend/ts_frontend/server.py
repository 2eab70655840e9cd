"""The composition root: builds every object of the server, runs it, takes it down.

`cli` calls `run` in the process that is the server. Nothing else knows all the rooms.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ts_archiver.rivals import rivals
from ts_frontend.config import Config, ConfigError
from ts_frontend.core.catalog import Catalog
from ts_frontend.core.devices import Devices
from ts_frontend.core.events import answer_calls
from ts_frontend.core.inference import Inference
from ts_frontend.core.management import Management
from ts_frontend.core.snapshot import Snapshots
from ts_frontend.core.status import Status
from ts_frontend.core.store import Store
from ts_frontend.core.supervisor import Supervisor
from ts_frontend.core.threads import usable_cores
from ts_frontend.core.watch import Watcher
from ts_frontend.endpoints import ServerView, load_endpoints
from ts_frontend.http.listeners import Rooms, build_listeners
from ts_frontend.http.server import BindError, Listener
from ts_frontend.http.tokens import KeyFileError, Tokens, fixed_keys, mounted_keys
from ts_frontend.log_lines import printed
from ts_frontend.logs import Logs
from ts_frontend.metrics.live import pids
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec
from ts_frontend.metrics.system import SystemCollector
from ts_frontend.metrics.system_command import SystemCommand
from ts_frontend.snapshot_store import open_store, snapshot_folder
from ts_frontend.version import __version__
from ts_worker.backend.process import ProcessBackend

log = logging.getLogger(__name__)

# Kubernetes gives a pod 30 seconds between SIGTERM and SIGKILL; this leaves some to end workers.
DRAIN_SECONDS = 25.0


@dataclass(frozen=True, slots=True)
class _Parts:
    """A server, built and not started. ``snapshots`` is None where none are written, ``tokens``
    where none are asked for."""

    logs: Logs
    catalog: Catalog
    recorder: Recorder
    backend: ProcessBackend
    store: Store
    supervisor: Supervisor
    management: Management
    snapshots: Snapshots | None
    tokens: Tokens | None
    listeners: list[Listener]


def run(config: Config, *, on_ready: Callable[[], None]) -> int:
    """Be the server until SIGTERM or SIGINT; returns the exit code of the process.

    Prints ``Model server started.`` once every listener is up, then calls ``on_ready``. A first
    signal answers what is in flight, a second one ends at once.
    """
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(_serve(config, on_ready))
    except ConfigError as error:
        text = f"Invalid configuration: {error}"
    except (BindError, KeyFileError) as error:
        text = str(error)
    print(printed(config.log_format, text, "ERROR"), end="", flush=True)
    return 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # Windows
        return asyncio.new_event_loop
    return uvloop.new_event_loop


async def _serve(config: Config, on_ready: Callable[[], None]) -> int:
    stopping = asyncio.Event()
    _on_signals(stopping)
    async with _running(config) as server:
        gc.enable()
        _warn_of_rivals()
        if not await _unless(stopping, server.management.startup.run()):
            log.info("Stopping while models are being loaded")
            return 0
        if server.snapshots is not None:
            server.snapshots.begin()
        # What was made until now lives as long as the server: the collector need not look at it.
        gc.collect()
        gc.freeze()
        server.logs.announce("Model server started.")
        on_ready()
        await stopping.wait()
        log.info("Stopping: requests in flight are answered first")
    return 0


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work, or cancel it as soon as the server shall stop; says whether it was done."""
    working = asyncio.create_task(work)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([working, waiting], return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        working.cancel()
        waiting.cancel()
        await asyncio.wait([working, waiting])


def _on_signals(stopping: asyncio.Event) -> None:
    def stop(name: str) -> None:
        if stopping.is_set():
            # Workers and zygotes die with this process: the kernel sees to it.
            os._exit(128 + signal.Signals[name])
        stopping.set()

    loop = asyncio.get_running_loop()
    for name in ("SIGTERM", "SIGINT"):
        loop.add_signal_handler(signal.Signals[name], stop, name)


@asynccontextmanager
async def _running(config: Config) -> AsyncIterator[_Parts]:
    """Everything, started in the order in which it depends on each other, ended in reverse."""
    async with AsyncExitStack() as stack:
        logs = Logs(config, stdout=sys.stdout)
        logs.open()
        stack.callback(logs.close)
        _greet(config)
        server = _build(config, logs)

        await server.store.clear_stale()
        await server.backend.open()
        stack.push_async_callback(server.backend.close)
        stack.push_async_callback(server.management.close)
        stack.push_async_callback(server.supervisor.close)
        for listener in server.listeners:
            await listener.start()
        if server.tokens is not None:
            # Only with the addresses in hand: another server's key file is not to be replaced.
            server.tokens.open()
            stack.callback(server.tokens.close)
            _announce(server.tokens)
        if server.snapshots is not None:  # once nothing can change any more, before workers go
            stack.push_async_callback(server.snapshots.close)
        stack.push_async_callback(_drain, server)
        for work in _background(config, server):
            stack.push_async_callback(_cancel, asyncio.create_task(work))
        yield server


def _build(config: Config, logs: Logs) -> _Parts:
    """Make every object, from the core outwards."""
    tokens = _tokens(config)
    catalog = Catalog()
    recorder = Recorder(
        load_spec(config.metrics_config or default_path()),
        logs,
        host=socket.gethostname(),
        mode=config.metrics_mode,
        auto_detect=config.model_metrics_auto_detect,
        status=Status(catalog),
    )
    backend = ProcessBackend(os.environ)
    inference = Inference(catalog, recorder)
    cores = usable_cores()
    answer = answer_calls(inference)
    supervisor = Supervisor(
        config, catalog, backend, meter=recorder, log=logs, answer=answer, cores=cores
    )
    store = Store(config, cores=cores)
    devices = Devices(config.number_of_gpu, os.environ)
    management = Management(config, catalog, store, supervisor, devices, cores=cores)
    snapshots = _snapshots(config, management)
    endpoints = load_endpoints(ServerView(config, management))
    rooms = Rooms(inference, management, recorder, logs, tokens, endpoints)
    return _Parts(
        logs=logs,
        catalog=catalog,
        recorder=recorder,
        backend=backend,
        store=store,
        supervisor=supervisor,
        management=management,
        snapshots=snapshots,
        tokens=tokens,
        listeners=build_listeners(config, rooms),
    )


def _background(config: Config, server: _Parts) -> Iterator[Coroutine[Any, Any, None]]:
    """What runs beside the requests, until it is cancelled."""
    if not config.disable_system_metrics:
        yield _collector(config, server.recorder, server.catalog).run()
    if config.watch_models:
        yield Watcher(server.catalog, server.management.reloader).run()


def _collector(config: Config, recorder: Recorder, catalog: Catalog) -> SystemCollector:
    interval, command = config.metric_time_interval, None
    if config.system_metrics_cmd is not None:
        status = Status(catalog)
        command = SystemCommand(
            config.system_metrics_cmd, lambda: pids(status.versions()), limit=max(interval, 10)
        )
    return SystemCollector(recorder, interval, command=command)


def _snapshots(config: Config, management: Management) -> Snapshots | None:
    """None with ``--ncs``, and in debug mode, whose one worker without timeouts is not for good."""
    if not config.snapshots or config.debug:
        return None
    opened = open_store(config.snapshot_store, snapshot_folder(config.log_location))
    log.info("Snapshots go to %s", opened.title)
    startup = management.startup
    snapshots = Snapshots(config, opened.store, startup.saved, failed=startup.failed_entries)
    management.on_change(snapshots.changed)
    return snapshots


def _greet(config: Config) -> None:
    log.info(
        "torchserve-py %s, configuration: %s",
        __version__,
        config.restored_from or config.source or "defaults",
    )
    for warning in config.warnings:
        log.warning("%s", warning)


def _warn_of_rivals() -> None:
    for warning in rivals():
        log.warning("%s", warning)


def _tokens(config: Config) -> Tokens | None:
    if config.disable_token_authorization:
        return None
    path = Path.cwd() / "key_file.json"
    fixed, mounted = fixed_keys(os.environ), mounted_keys(os.environ)
    return Tokens(path, config.token_expiration_min, fixed, mounted=mounted)


def _announce(tokens: Tokens) -> None:
    log.info("######")
    log.info("TorchServe now enforces token authorization by default.")
    log.info("Key file located at %s", tokens.path)
    log.info("######")


async def _drain(server: _Parts) -> None:
    """Accept nothing more and answer what is in flight, all listeners side by side."""
    server.management.changes.stop()
    await asyncio.gather(
        server.supervisor.drain(DRAIN_SECONDS),
        *(listener.stop(DRAIN_SECONDS) for listener in server.listeners),
    )
    await server.management.changes.close()


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        pass
    except Exception:  # its own, and no reason not to end the rest
        log.exception("What ran beside the requests had broken")
