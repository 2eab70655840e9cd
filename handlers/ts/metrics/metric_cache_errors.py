"""What can be wrong with metrics.yaml or with a call of `context.metrics`.

GeneralMetricsCacheError
├── MetricsCacheIOError         metrics.yaml cannot be read
├── MetricsCachePyYamlError     metrics.yaml is not YAML
├── MetricsCacheTypeError       an argument has the wrong type
├── MetricsCacheValueError      a unit or section has the wrong content
└── MetricsCacheKeyError        a key or metric that is not there
"""

from __future__ import annotations


class GeneralMetricsCacheError(Exception):
    """Any of the errors below."""


class MetricsCacheIOError(GeneralMetricsCacheError, OSError):
    pass


class MetricsCachePyYamlError(GeneralMetricsCacheError, ValueError):
    # TorchServe derives this from yaml's own error; yaml stays unimported until a file is read.
    pass


class MetricsCacheTypeError(GeneralMetricsCacheError, TypeError):
    pass


class MetricsCacheValueError(GeneralMetricsCacheError, ValueError):
    pass


class MetricsCacheKeyError(GeneralMetricsCacheError, KeyError):
    def __str__(self) -> str:
        # KeyError shows the repr of its argument, quotes and all.
        return str(self.args[0]) if self.args else ""
