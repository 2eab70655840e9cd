"""Answers each request with the bytes it brought: the shortest function handler."""


def handle(data, context):
    if data is None:  # the call that lets a function handler load its model
        return None
    return [row["body"] if "body" in row else row.get("data", b"") for row in data]
