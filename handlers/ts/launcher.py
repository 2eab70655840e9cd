"""Start and stop a server from Python, and register models with it.

For scripts and tests; the server is a process of its own, on the default ports.
"""

from __future__ import annotations

import queue
import subprocess
import threading
from typing import Any, Dict, List, Optional, Union

from ts.commands import command
from ts.optional import require

_STARTED = "Model server started"
_MODELS = "http://localhost:8081/models"


def start(
    model_store: Optional[str] = None,
    snapshot_file: Optional[str] = None,
    no_config_snapshots: bool = False,
    plugin_folder: Optional[str] = None,
    disable_token: bool = False,
    models: Union[str, List[str], None] = None,
    enable_model_api: bool = False,
) -> Any:
    """Start `torchserve` and wait until it listens.

    Args:
        model_store: folder of the archives, else that of ./config.properties.
        snapshot_file: settings, as ``--ts-config``.
        models: to load, as ``--models``.
        Others: the options of the command.

    Returns:
        A queue of the server's further lines on standard output, as they come.

    Raises:
        RuntimeError: it ended before it listened; the text has what it said.
        FileNotFoundError: the command is not installed.
    """
    words = ["--start", "--foreground"]
    for option, value in (
        ("--model-store", model_store),
        ("--ts-config", snapshot_file),
        ("--plugins-path", plugin_folder),
    ):
        words += [option, str(value)] if value else []
    words += ["--no-config-snapshots"] if no_config_snapshots else []
    words += ["--disable-token-auth"] if disable_token else []
    words += ["--enable-model-api"] if enable_model_api else []
    if models:
        words += ["--models", *([models] if isinstance(models, str) else models)]
    process = subprocess.Popen(
        command("torchserve", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    _wait_until_it_listens(process)
    lines: Any = queue.Queue()
    # Somebody must read on, or the server stands still once the pipe is full.
    threading.Thread(target=_pass_on, args=(process, lines), daemon=True).start()
    return lines


def stop(wait: bool = True) -> None:
    """Stop the running server; with ``wait`` return when it has ended."""
    subprocess.run(command("torchserve", "--stop", *(["--foreground"] if wait else [])), check=True)


def register_model(model_name: str, url: str) -> Any:
    """Register an archive with one worker and wait until that has loaded it."""
    return register_model_with_params(
        {"model_name": model_name, "url": url, "initial_workers": "1", "synchronous": "true"}
    )


def register_model_with_params(params: Dict[str, Any]) -> Any:
    """Post a register call with these parameters to the default management port.

    Returns:
        The response, of the package requests; its status is not looked at.

    Raises:
        ImportError: requests is not installed.
    """
    return require("requests", "requests", "Registering a model from Python").post(
        _MODELS, params=params
    )


def _wait_until_it_listens(process: Any) -> None:
    said = []
    for line in process.stdout:
        print(line, end="", flush=True)
        said.append(line)
        if _STARTED in line:
            return
    code = process.wait()
    process.stdout.close()
    raise RuntimeError(f"torchserve ended with exit code {code}:\n{''.join(said[-20:])}".rstrip())


def _pass_on(process: Any, lines: Any) -> None:
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    process.wait()
