"""The metrics cache that reads its definitions from the `model_metrics` of metrics.yaml."""

from __future__ import annotations

from typing import Any, Dict

from ts.metrics.metric_cache_abstract import MetricCacheAbstract
from ts.metrics.metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from ts.metrics.metric_type_enum import MetricTypes
from ts.utils.util import get_yaml_config


class MetricsCacheYamlImpl(MetricCacheAbstract):
    """`context.metrics` of every model.

    Args:
        config_file_path: metrics.yaml; read here, used by `initialize_cache`.

    Raises:
        MetricsCacheTypeError: the path is no str.
        MetricsCacheIOError: the file cannot be read.
        MetricsCachePyYamlError: it is not YAML.
    """

    def __init__(self, config_file_path: str) -> None:
        super().__init__(config_file_path)
        if not isinstance(config_file_path, str):
            raise MetricsCacheTypeError("`config_file_path` must be a str")
        try:
            self._parsed_file: Any = get_yaml_config(config_file_path)
        except OSError as error:
            raise MetricsCacheIOError(
                f"Cannot read the metrics configuration {config_file_path}: {error.strerror}"
            ) from error
        except ValueError as error:
            raise MetricsCachePyYamlError(str(error)) from error

    def initialize_cache(self) -> None:
        """Define every metric of the section `model_metrics`.

        Raises:
            MetricsCacheKeyError: the section, a type or an entry's key is missing or unknown.
            MetricsCacheValueError: the section is empty.
        """
        kinds = {kind.value: kind for kind in MetricTypes}
        for name, entries in self._parse_metrics_section().items():
            if name not in kinds:
                raise MetricsCacheKeyError(
                    f"{name} in {self.config_file_path} is no metric type; use {list(kinds)}"
                )
            for entry in entries or ():
                self._define(entry, kinds[name])

    def _define(self, entry: Any, kind: MetricTypes) -> None:
        try:
            name, unit, dimensions = entry["name"], entry["unit"], entry["dimensions"]
        except (KeyError, TypeError) as error:
            raise MetricsCacheKeyError(
                f"Key not found in cache spec: {error} in {entry} of {self.config_file_path}"
            ) from error
        self.add_metric_to_cache(name, unit, dimensions or (), kind)

    def _parse_metrics_section(self, key: str = "model_metrics") -> Dict[str, Any]:
        parsed = self._parsed_file if isinstance(self._parsed_file, dict) else {}
        if key not in parsed:
            raise MetricsCacheKeyError(
                f"'{key}' key not found in yaml file: {self.config_file_path}"
            )
        if not isinstance(parsed[key], dict) or not parsed[key]:
            raise MetricsCacheValueError(
                f"Missing `{key}` specification in {self.config_file_path}"
            )
        section: Dict[str, Any] = parsed[key]
        return section
