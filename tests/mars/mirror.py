"""Answers each request with what its handler was given: row, headers, ids."""


def handle(data, context):
    if data is None:
        return None
    return [
        {
            "version": context.manifest["model"]["modelVersion"],
            "row": {name: [type(value).__name__, _text(value)] for name, value in row.items()},
            "headers": context.get_all_request_header(idx),
            "id": context.get_request_id(idx),
            "request_ids": {str(key): value for key, value in context.request_ids.items()},
        }
        for idx, row in enumerate(data)
    ]


def _text(value):
    return bytes(value).decode("latin-1") if isinstance(value, bytearray) else value
