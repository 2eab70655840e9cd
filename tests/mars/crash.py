"""Ends its own process as the body says: exit, 137, segfault, kill, oom; echoes anything else."""

import os
import signal
import sys


def handle(data, context):
    if data is None:
        return None
    for row in data:
        command = bytes(row.get("body") or row.get("data") or b"").decode()
        if command == "exit":
            os._exit(3)
        if command == "137":
            os._exit(137)
        if command == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if command == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if command == "sysexit":
            sys.exit(4)
        if command == "oom":
            raise MemoryError("asked for")
    return [bytes(row.get("body") or row.get("data") or b"") for row in data]
