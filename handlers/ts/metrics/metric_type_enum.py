"""The three kinds of metrics, by the names that metrics.yaml and Prometheus use."""

from enum import Enum


class MetricTypes(Enum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
