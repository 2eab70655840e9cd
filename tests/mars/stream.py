"""Sends as many parts as the body says (3 without a number), then the last one.

The body "fail" breaks off behind the first part, "only" makes the first part the last one too.
"""

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    context.stopping_criteria = None
    command = bytes(data[0].get("body") or data[0].get("data") or b"3").decode()
    if command == "only":
        context.stopping_criteria = {idx: lambda value: True for idx in range(len(data))}
        return ["only\n" for _ in data]
    count = 1 if command == "fail" else int(command)
    for number in range(count):
        parts = [f"part {number}\n" for _ in data]
        send_intermediate_predict_response(
            parts, context.request_ids, "Intermediate Prediction success", 200, context
        )
    if command == "fail":
        raise ValueError("asked to fail")
    return ["end\n" for _ in data]
