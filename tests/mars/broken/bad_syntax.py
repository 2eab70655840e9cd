"""Is no Python."""


def handle(data, context:
    return data
