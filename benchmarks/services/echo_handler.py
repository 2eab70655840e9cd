"""Echo for torchserve-py and TorchServe: each request is answered with its body."""


def handle(data, context):
    """``data`` is None in the call with which TorchServe initialises a handler."""
    if data is None:
        return None
    return [row.get("data") or row.get("body") for row in data]
