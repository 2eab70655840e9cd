"""Handler sources that the tests of real worker processes write into model folders."""

ECHO = """
def handle(data, context):
    return None if data is None else [row.get("body") for row in data]
"""

WHOAMI = """
import json, os, sys
import torch

def handle(data, context):
    if data is None:
        return None
    print("asked who I am")
    return [{
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp(),
        "cwd": os.getcwd(),
        "threads": torch.get_num_threads(),
        "env": dict(os.environ),
        "random": float(torch.rand(1)),
        "path": sys.path[:2],
        "gpu": context.system_properties["gpu_id"],
    } for _ in data]

"""

COMMANDS = """
import os, signal, subprocess, sys, time

def handle(data, context):
    if data is None:
        return None
    command = bytes(data[0]["body"]).decode()
    if command == "exit":
        os._exit(3)
    if command == "sys.exit":
        sys.exit(4)
    if command == "segfault":
        import ctypes
        ctypes.string_at(0)
    if command == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return [str(child.pid)]
    if command == "orphan":
        child = subprocess.Popen([sys.executable, "-c",
            "import os; p = os.fork(); print(p, flush=True) if p else None; os._exit(0)"],
            stdout=subprocess.PIPE)
        return [child.communicate()[0].decode()]
    if command == "hang":
        while True:
            time.sleep(60)
    if command == "until cancelled":
        open("started", "w").close()
        while not context.is_cancelled(0):
            time.sleep(0.005)
        return ["cancelled"]
    if command == "stream":
        from ts.handler_utils.utils import send_intermediate_predict_response
        for part in "ab":
            send_intermediate_predict_response(
                [part], context.request_ids, "Intermediate", 200, context)
        return ["c"]
    return [command]
"""

BROKEN_IMPORT = """
import a_module_that_is_not_there

def handle(data, context):
    return data
"""

BAD_SYNTAX = "def handle(data, context:\n    return data\n"

EXITS_AT_LOAD = """
import os, sys

print("the last words", file=sys.stderr, flush=True)
os._exit(9)
"""

LOGS = """
import logging, sys, threading

log = logging.getLogger("mine")
log.setLevel(1)

def handle(data, context):
    if data is None:
        log.info("loading")
        return None
    for level in (5, 10, 20, 30, 40, 50):
        log.log(level, "at %d", level)
    logging.debug("below the root's level")
    try:
        raise ValueError("a cause")
    except ValueError:
        log.exception("it broke")
    thread = threading.Thread(target=log.info, args=("beside",))
    thread.start()
    thread.join()
    print("printed")
    print("complained", file=sys.stderr)
    return [b""] * len(data)
"""
