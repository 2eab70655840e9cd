"""Says something in every way a handler can; the body names a logger's level, or "break"."""

import logging
import sys

log = logging.getLogger("speak")


def handle(data, context):
    if data is None:
        log.info("loading\nin two lines")
        return None
    for row in data:
        word = bytes(row["body"]).decode()
        if word == "break":
            raise ValueError("broken\nin two lines")
        if word == "print":
            print("printed")
            print("complained", file=sys.stderr)
        else:
            log.log(int(word), "logged at %s", word)
    return ["said"] * len(data)
