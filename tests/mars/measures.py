"""Reports a metric of each type, and one by printing TorchServe's line for it."""

from ts.metrics.dimension import Dimension
from ts.metrics.metric_type_enum import MetricTypes

PRINTED = "[METRICS]Printed.Count:{}|#Kind:line|#type:COUNTER|#hostname:h,1717105307,{}"


def handle(data, context):
    if data is None:
        return None
    metrics = context.metrics
    metrics.add_counter("Seen", len(data))
    metrics.add_size("Room", 2.5, unit="GB", dimensions=[Dimension("Place", "here")])
    metrics.add_metric("Spread", 0.3, "s", metric_type=MetricTypes.HISTOGRAM)
    print(PRINTED.format(len(data), context.get_request_id(0)), flush=True)
    print("not a metric", flush=True)
    return ["measured" for _ in data]
