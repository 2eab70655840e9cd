"""Answers each row with its body and the size of its batch; fails for some bodies."""

from ts.utils.util import PredictionException


def handle(data, context):
    if data is None:
        return None
    bodies = [bytes(row["body"]) for row in data]
    for index, body in enumerate(bodies):
        if body == b"bad":
            raise PredictionException("no cat", 422, request_index=index)
        if body == b"odd":
            error = ValueError("not to be told to clients")
            error.request_index = index
            raise error
        if body == b"sly":
            raise ValueError("it does not say whose fault it is")
    return [b"%s of %d" % (body, len(data)) for body in bodies]
