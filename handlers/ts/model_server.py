"""`start` runs the command `torchserve` with this process's arguments."""

from __future__ import annotations

import subprocess
import sys
from typing import Dict, List

from ts.commands import command


def start() -> None:
    """Run `torchserve` with ``sys.argv[1:]`` and wait for it.

    Raises:
        SystemExit: its exit code, where that is not 0.
        FileNotFoundError: the command is not installed.
    """
    run(sys.argv[1:])


def run(arguments: List[str]) -> None:
    """As `start`, with these arguments."""
    process = subprocess.Popen(command("torchserve", *arguments))
    while True:
        try:
            code = process.wait()
            break
        except KeyboardInterrupt:
            continue  # the server got it too, and drains
    if code:
        sys.exit(code)


def load_properties(file_path: str) -> Dict[str, str]:
    """The settings of a config.properties as its launcher reads it: ``key=value`` lines.

    Lines without ``=`` and those that start with ``#`` are left out; nothing continues a line.
    """
    properties = {}
    with open(file_path, encoding="utf-8") as file:
        for line in map(str.strip, file):
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                properties[key.strip()] = value.strip()
    return properties


if __name__ == "__main__":
    start()
