"""The echo handler, the same file for torchserve-py and TorchServe; `mosec_echo.py` is its twin.

A function entry point under the name that both look for: each request is answered with its body.
"""


def handle(data, context):
    """Echo a batch. ``data`` is None in the call with which TorchServe initialises a handler."""
    if data is None:
        return None
    return [row.get("data") or row.get("body") for row in data]
