"""The command `torchserve-py`, also installed as `torchserve`: start, stop, version, config,
run-handler, bench.

Flags, messages and exit codes are those of TorchServe's launcher. The server is imported only
where it runs: a command must answer at once, and `--start` forks before anything heavy is loaded.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from ts_frontend import config_report, snapshot_store
from ts_frontend.cli_options import CONTEXT, Command, with_settings
from ts_frontend.config import Config, ConfigError, LaunchError, load, load_config
from ts_frontend.daemon import launch
from ts_frontend.pidfile import Found, PidFile
from ts_frontend.version import __version__

_STOP_SECONDS = 60
_RIVALS = ("torchserve", "torchserve-nightly")


@click.command(cls=Command, context_settings=CONTEXT)
@click.option("-v", "--version", is_flag=True, help="Print the version.")
@click.option("--start", is_flag=True, help="Start the server (what happens without a flag, too).")
@click.option("--stop", is_flag=True, help="Stop the running server.")
@click.option("--foreground", is_flag=True, help="Stay until the server ends; with --stop, wait.")
@with_settings
def command(**options: Any) -> None:
    """Serve PyTorch models.

    `torchserve-py config --show` takes the same settings, tells what each comes to and where it
    was set, and starts nothing. `torchserve-py run-handler --help` runs a model's handler without
    a server, and `torchserve-py bench --help` measures a model of a running one.
    """
    actions = [f"--{name}" for name in ("version", "start", "stop") if options[name]]
    if len(actions) > 1:
        raise click.UsageError(f"argument {actions[1]}: not allowed with argument {actions[0]}")
    if options["version"]:
        print(f"TorchServe Version is {__version__}")
        return
    sys.exit(stop(options["foreground"]) if options["stop"] else start(options))


@click.command(cls=Command, context_settings=CONTEXT)
@click.option("--show", is_flag=True, help="Print every setting and where it was set.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@with_settings
def config_command(show: bool, as_json: bool, **options: Any) -> None:
    """Tell what a start with the same flags would go by; nothing is started."""
    if not show:
        raise click.UsageError("missing option --show")
    sys.exit(show_config(options, as_json=as_json))


def main() -> None:
    """Entry point of both console scripts."""
    if sys.argv[1:2] == ["config"]:
        config_command(sys.argv[2:], prog_name=f"{Path(sys.argv[0]).name} config")
    if sys.argv[1:2] == ["run-handler"]:
        from ts_frontend.run_handler import command as run_handler  # asyncio and all of the core

        run_handler(sys.argv[2:], prog_name=f"{Path(sys.argv[0]).name} run-handler")
    if sys.argv[1:2] == ["bench"]:
        from ts_frontend.bench.cli import command as bench

        bench(sys.argv[2:], prog_name=f"{Path(sys.argv[0]).name} bench")
    command()


def start(options: Mapping[str, object]) -> int:
    """Start the server, in this process with ``foreground``, else detached.

    Returns:
        The exit code: 1 when the server did not come up, with the cause on standard output.
    """
    rival = _rival()
    if rival:
        print(
            f"The distribution {rival} is installed beside torchserve-py and both own the module "
            f"ts: run `pip uninstall {rival}` and install torchserve-py again."
        )
        return 1
    pid_file = PidFile()
    if _find(pid_file)[0] is Found.SERVER:
        print("TorchServe is already running, please use torchserve --stop to stop TorchServe.")
        return 1
    background = not options.get("foreground")
    if background and not hasattr(os, "fork"):
        print("A server can't go to the background on this system: use --foreground.")
        return 1
    if background and not options.get("no_config_snapshots") and snapshot_store.installed():
        # Reading the last snapshot runs the code of others, whose threads a fork would lose.
        return launch(partial(_load_and_serve, options, pid_file))
    try:
        config = load_config(options, os.environ, Path.cwd())
    except ConfigError as error:
        return _refuse(error)
    serve = partial(_serve, config, pid_file)
    return launch(serve) if background else serve(lambda: None)


def show_config(options: Mapping[str, object], *, as_json: bool) -> int:
    """Print the effective settings; warnings go to standard error, in JSON to its end.

    Returns:
        The exit code: 1 when a start would refuse these settings, with its message.
    """
    try:
        loaded = load(options, os.environ, Path.cwd(), need_store=False)
    except ConfigError as error:
        return _refuse(error)
    if as_json:
        print(config_report.as_json(loaded))
        return 0
    print(config_report.as_text(loaded))
    for warning in loaded.config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return 0


def stop(wait: bool) -> int:
    """Send SIGTERM to the running server; with ``wait`` until it has ended, for a minute.

    Returns:
        The exit code: 1 only when waiting took too long.
    """
    pid_file = PidFile()
    found, pid = _find(pid_file)
    if found is not Found.SERVER:
        print("TorchServe is not currently running.")
        return 0
    try:
        if not _terminate(pid, _STOP_SECONDS if wait else 0):
            print("Stopping TorchServe took too long.")
            # It may still end by itself; until then the file is what a second --stop needs.
            return 1
    except PermissionError:
        print(f"TorchServe can't be stopped: process {pid} belongs to another user.")
        return 1
    except OSError:
        print("TorchServe already stopped.")
    else:
        if not wait:
            print("TorchServe has stopped.")
    pid_file.remove(pid)
    return 0


def _terminate(pid: int, seconds: float) -> bool:
    """Send SIGTERM and wait; False when the process lives on after that time.

    Raises:
        OSError: no such process, or not ours.
    """
    if not seconds:
        os.kill(pid, signal.SIGTERM)
        return True
    if not hasattr(os, "pidfd_open"):
        return _terminate_by_polling(pid, seconds)
    # The descriptor tells the end even where nobody reaps: PID 1 of many containers doesn't.
    handle = os.pidfd_open(pid)
    try:
        os.kill(pid, signal.SIGTERM)
        return bool(select.select([handle], [], [], seconds)[0])
    finally:
        os.close(handle)


def _terminate_by_polling(pid: int, seconds: float) -> bool:
    import psutil

    os.kill(pid, signal.SIGTERM)
    try:
        psutil.Process(pid).wait(seconds)
    except psutil.TimeoutExpired:
        return False
    except psutil.NoSuchProcess:
        return True
    return True


def _find(pid_file: PidFile) -> tuple[Found, int]:
    found, pid = pid_file.find()
    if found is Found.ORPHAN:
        print("Removing orphan pid file.")
        pid_file.remove(pid)
    return found, pid


def _rival() -> str | None:
    """The name of an installed TorchServe, whose `ts` package would mix with ours.

    Looks for its folder in the import path: importlib.metadata costs 30 ms to load.
    """
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")
        except OSError:
            continue
        for name in names:
            distribution = name.partition("-")[0].lower().replace("_", "-")
            if distribution in _RIVALS and name.endswith((".dist-info", ".egg-info")):
                return distribution
    return None


def _refuse(error: ConfigError) -> int:
    prefix = "" if isinstance(error, LaunchError) else "Invalid configuration: "
    print(f"{prefix}{error}", flush=True)
    return 1


def _load_and_serve(
    options: Mapping[str, object], pid_file: PidFile, on_ready: Callable[[], None]
) -> int:
    try:
        config = load_config(options, os.environ, Path.cwd())
    except ConfigError as error:
        return _refuse(error)
    return _serve(config, pid_file, on_ready)


def _serve(config: Config, pid_file: PidFile, on_ready: Callable[[], None]) -> int:
    """Be the server. The pid file exists from before the first model until the end."""
    pid = os.getpid()
    try:
        pid_file.write(pid)
    except OSError as error:
        print(f"Pid file {pid_file.path} can't be written: {error.strerror}; set TMPDIR.")
        return 1
    try:
        gc.disable()  # looking for garbage among what is imported; `server` turns it on again
        # Here and not above: aiohttp and uvloop must not be loaded before the fork.
        from ts_frontend.http.lean import import_server

        import_server()
        from ts_frontend.server import run

        return run(config, on_ready=on_ready)
    except ConfigError as error:
        return _refuse(error)
    except OSError as error:
        print(f"The server can't start: {error}", flush=True)
        return 1
    finally:
        pid_file.remove(pid)


if __name__ == "__main__":
    main()
