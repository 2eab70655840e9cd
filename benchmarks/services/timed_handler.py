"""A handler whose batch of n takes a + b * n milliseconds, as its model-config.yaml says; the suite
openloop gives it to every server that takes TorchServe's archives.
"""

import time

SPIN = 0.001  # seconds: sleeping alone would be late by a varying part of a millisecond


def handle(data, context):
    """Answer each request with two bytes."""
    if data is None:
        return None
    cost = context.model_yaml_config["handler"]
    end = time.perf_counter() + (cost["a"] + cost["b"] * len(data)) / 1000
    time.sleep(max(0.0, end - time.perf_counter() - SPIN))
    while time.perf_counter() < end:
        pass
    return [b"ok"] * len(data)
