"""The length of each body, for torchserve-py and TorchServe."""


def handle(data, context):
    """``data`` is None in the call with which TorchServe initialises a handler."""
    if data is None:
        return None
    return [str(len(row.get("data") or row.get("body"))) for row in data]
