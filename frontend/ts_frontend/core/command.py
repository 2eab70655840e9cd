"""Runs pip, uv, venv and interpreters to their end, for `interpreter` and `env_builder`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from ts_frontend.core.own_thread import in_own_thread

_OUTPUT_LINES = 30
_KILL_SECONDS = 2.0
_ROOT = os.path.abspath(os.sep)


class CommandFailed(Exception):
    """The text is the last lines that the command printed, or why it could not run."""


async def run(command: Sequence[str], env: Mapping[str, str], limit: float) -> str:
    """Run a command in a process group of its own, and return what it printed.

    Not by asyncio: its event loop would take SIGCHLD from whoever reaps the workers. In the
    server's own session, which that one leaves alone. In the root folder, because ``python -m``
    looks for modules where it runs, and a model may have a logging.py. Cancelling ends it.

    Args:
        limit: seconds.

    Raises:
        CommandFailed: it can't be started, ends with an error, or not in time.
    """
    try:
        process = subprocess.Popen(  # noqa: ASYNC220  (blocks for the exec only)
            command,
            cwd=_ROOT,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    except OSError as error:
        raise CommandFailed(f"{command[0]}: {error.strerror}") from error
    running = in_own_thread(process.communicate, "command")
    try:
        async with asyncio.timeout(limit):
            output, _ = await asyncio.shield(running)
    except TimeoutError:
        raise CommandFailed(f"It did not end within {limit:.0f} s.") from None
    finally:
        if not running.done():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            # What left its group may hold the pipe, and is not waited for.
            await asyncio.wait([running], timeout=_KILL_SECONDS)
            if not running.cancel():
                running.exception()
    text = output.decode(errors="replace")
    if process.returncode != 0:
        tail = "\n".join(text.strip().splitlines()[-_OUTPUT_LINES:])
        raise CommandFailed(tail or f"{command[0]} ended with {process.returncode}.")
    return text
