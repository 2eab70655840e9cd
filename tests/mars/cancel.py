"""Works until nobody waits for the first request any more, at most ten seconds.

It appends one line to the file named by the body when it stops: what made it stop.
"""

import time


def handle(data, context):
    if data is None:
        return None
    path = bytes(data[0].get("body") or data[0].get("data") or b"").decode()
    end = time.monotonic() + 10
    while time.monotonic() < end and not context.is_cancelled(0):
        time.sleep(0.005)
    stopped = "cancelled" if context.is_cancelled(0) else "timeout"
    if path:
        with open(path, "a", encoding="utf-8") as file:
            file.write(stopped + "\n")
    return [stopped for _ in data]
