"""Fails as the body says: one word for each row of the table of handler errors."""

from ts.utils.util import PredictionException


def handle(data, context):
    if data is None:
        return None
    command = bytes(data[0].get("body") or data[0].get("data") or b"value").decode()
    if command == "prediction":
        raise PredictionException("no such endpoint", 404)
    if command == "prediction 413":
        raise PredictionException("too much", 413)
    if command == "prediction without a code":
        raise PredictionException("cannot")
    if command == "memory":
        raise MemoryError("asked for")
    if command == "cuda":
        raise RuntimeError("CUDA error: out of memory")
    if command == "tuple":
        return ("not", "a list")
    if command == "short":
        return []
    if command == "object":
        return [object() for _ in data]
    raise ValueError("asked to fail")
