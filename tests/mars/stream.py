"""Sends as many parts as the body says (3 without a number), then the last one."""

from ts.handler_utils.utils import send_intermediate_predict_response


def handle(data, context):
    if data is None:
        return None
    count = int(bytes(data[0].get("body") or data[0].get("data") or b"3"))
    for number in range(count):
        parts = [f"part {number}\n" for _ in data]
        send_intermediate_predict_response(
            parts, context.request_ids, "Intermediate Prediction success", 200, context
        )
    return ["end\n" for _ in data]
