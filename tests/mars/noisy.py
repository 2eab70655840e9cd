"""Makes noise in one of many ways, named by the body; answers once it is made."""

import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time

log = logging.getLogger("noisy")
LINES = 300


def prompt(context):
    """Two lines without an end, and then nothing for long: both must show up meanwhile."""
    print("out? ", end="")
    sys.stderr.write("err? ")
    end = time.monotonic() + 30
    while not context.is_cancelled(0) and time.monotonic() < end:
        time.sleep(0.01)
    print()


def native(context):
    """What C code writes, past Python's streams."""
    os.write(1, b"native without an end")


def mark(context):
    for descriptor in (1, 2):
        os.write(descriptor, b"mark\n")


def threads(context):
    def talk(name):
        for number in range(LINES):
            log.info("logged by %s, %d, %s", name, number, "x" * 50)
            print("printed by", name, number, "y" * 50)

    several = [threading.Thread(target=talk, args=(f"thread{n}",)) for n in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join()


def popen(context):
    line = "f'child {n} {\"z\" * 50}\\n'"  # in one write, as from any program that buffers
    program = f"import sys\nfor n in range({LINES}): sys.stdout.write({line}); sys.stdout.flush()"
    several = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    for number in range(LINES):
        print("parent", number, "p" * 50)
    for one in several:
        one.wait()


def fork(context):
    print("begun before the fork, ", end="")
    pid = os.fork()
    if not pid:
        print("forked child")
        log.warning("logged by the forked child")
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)
    print("ended behind it")


def _in_process(number, context):
    print(f"process {number} prints")
    log.error("process %d logs", number)
    context.metrics.add_counter("FromChildren", number)


def processes(context):
    several = [
        multiprocessing.get_context("fork").Process(target=_in_process, args=(n, context))
        for n in range(3)
    ]
    for one in several:
        one.start()
    for one in several:
        one.join()


def burst(context):
    """Ten megabytes: in lines, and in one piece without a line feed."""
    for _ in range(50):
        print("\n".join(["b" * 99] * 1000))
    sys.stdout.write("c" * 5_000_000)
    print()
    print("burst ended")


def quit(context):
    sys.stdout.write("last words without an end")
    sys.exit(3)


def handle(data, context):
    if data is None:
        return None
    for row in data:
        globals()[bytes(row["body"]).decode()](context)
    return ["made"] * len(data)
