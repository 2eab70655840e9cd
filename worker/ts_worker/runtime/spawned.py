"""A worker in a fresh interpreter, for models that must not inherit the zygote's modules.

`backend.spawning` starts it with its descriptors as arguments: connection, stdout, stderr,
lifeline. The environment and the interpreter are already the model's own.
"""

from __future__ import annotations

from typing import List, NoReturn

from ts_worker.runtime import birth, loop


def main(argv: List[str]) -> NoReturn:
    """Be a worker until the server hangs up."""
    connection, stdout, stderr, lifeline = map(int, argv)
    birth.ignore_terminal_signals()
    birth.die_with_server(lifeline)
    birth.take_output(stdout, stderr)
    loop.live(connection)
