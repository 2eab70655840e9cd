"""The metrics API, row by row of the tables 9.1 to 9.4."""

from __future__ import annotations

import json
import logging
import re
import socket
from pathlib import Path

import pytest

from ts.metrics.caching_metric import CachingMetric
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric
from ts.metrics.metric_cache_errors import (
    GeneralMetricsCacheError,
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
from ts.metrics.metric_encoder import MetricEncoder
from ts.metrics.metric_type_enum import MetricTypes
from ts.metrics.metrics_store import MetricsStore
from ts.metrics.unit import Units

LINE = re.compile(
    r"\[METRICS\](?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[0-9\-,.e]+)\|#(?P<labels>[^|]*)"
    r"\|#type:(?P<type>\w+)\|#hostname:(?P<host>[^,]+),(?P<time>\d+)(,(?P<ids>.*))?"
)


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture):
    """What was emitted so far, as the parts of TorchServe's line."""
    caplog.set_level(logging.INFO)

    def read() -> list[dict[str, str]]:
        found = [LINE.fullmatch(message) for message in caplog.messages]
        return [match.groupdict() for match in found if match]

    return read


# 9.1


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("ms", "Milliseconds"),
        ("s", "Seconds"),
        ("percent", "Percent"),
        ("count", "Count"),
        ("MB", "Megabytes"),
        ("GB", "Gigabytes"),
        ("kB", "Kilobytes"),
        ("B", "Bytes"),
        ("", "unit"),
        (None, "unit"),
        ("furlongs", "furlongs"),
    ],
    ids=lambda value: f"9.1 {value}",
)
def test_units(short, long) -> None:
    assert Metric("n", 1, short, []).unit == long
    if short != "furlongs":
        assert Units().units[short] == long


@pytest.mark.parametrize(
    ("kind", "value"),
    [("COUNTER", "counter"), ("GAUGE", "gauge"), ("HISTOGRAM", "histogram")],
    ids=lambda value: f"9.1 {value}",
)
def test_types(kind, value) -> None:
    assert MetricTypes[kind].value == value


def test_dimensions_and_metrics_have_a_text_and_a_dict() -> None:
    level = Dimension("Level", "Host")
    assert str(level) == "Level:Host"
    assert level.to_dict() == {"Name": "Level", "Value": "Host"}
    metric = Metric("N", 3, "ms", [level], "rid")
    host = socket.gethostname()
    assert re.fullmatch(
        rf"N\.Milliseconds:3\|#Level:Host\|#hostname:{re.escape(host)},\d+,rid", str(metric)
    )
    written = json.loads(json.dumps([metric, level], cls=MetricEncoder))
    assert set(written[0]) == {
        "MetricName",
        "Value",
        "Unit",
        "Dimensions",
        "Timestamp",
        "HostName",
        "RequestId",
    }
    assert written[1] == {"Name": "Level", "Value": "Host"}


def test_updates_emit_a_line_and_leave_the_value(lines) -> None:
    metric = Metric("N", 3, "count", [Dimension("Level", "Model")], metric_method="counter")
    metric.update(2)
    metric.reset()
    assert [(line["value"], line["type"]) for line in lines()] == [
        ("2", "COUNTER"),
        ("0", "COUNTER"),
    ]
    assert metric.value == 3


def test_a_caching_metric_emits_and_its_former_call_replaces_the_labels(lines) -> None:
    metric = CachingMetric("N", "ms", ["A"], MetricTypes.GAUGE)
    metric.add_or_update(1, ["a"])
    metric.update(2, "rid", [Dimension("B", "b")])
    assert [(line["labels"], line["ids"]) for line in lines()] == [("A:a", None), ("B:b", "rid")]
    assert metric.dimension_names == ["B"]
    metric.emit_metrics("rid", 3, "C:c,D:d")
    assert lines()[2]["labels"] == "C:c,D:d"


@pytest.mark.parametrize(
    ("error", "base"),
    [
        (MetricsCacheIOError, IOError),
        (MetricsCacheTypeError, TypeError),
        (MetricsCacheValueError, ValueError),
        (MetricsCacheKeyError, KeyError),
        (MetricsCachePyYamlError, Exception),
    ],
    ids=lambda cls: f"9.1 {cls.__name__}",
)
def test_errors_are_pythons_too(error, base) -> None:
    assert issubclass(error, base)
    assert issubclass(GeneralMetricsCacheError, Exception)


def test_the_former_store_has_the_same_helpers() -> None:
    store = MetricsStore({0: "rid"}, "m")
    store.add_counter("C", 1, 0, [Dimension("A", "a")])
    store.add_time("T", 2)
    assert [str(metric.dimensions[0]) for metric in store.store] == ["A:a", "ModelName:m"]


# 9.2


@pytest.mark.parametrize(
    ("call", "arguments", "expected"),
    [
        pytest.param("add_metric", ("N", 1, "x"), ("x", "COUNTER"), id="9.2 add_metric"),
        pytest.param("add_counter", ("N", 1), ("Count", "COUNTER"), id="9.2 add_counter"),
        pytest.param("add_time", ("N", 1), ("Milliseconds", "GAUGE"), id="9.2 add_time"),
        pytest.param("add_time", ("N", 1, None, "s"), ("Seconds", "GAUGE"), id="9.2 in seconds"),
        pytest.param("add_size", ("N", 1), ("Megabytes", "GAUGE"), id="9.2 add_size"),
        pytest.param("add_size", ("N", 1, None, "kB"), ("Kilobytes", "GAUGE"), id="9.2 in kB"),
        pytest.param("add_percent", ("N", 1), ("Percent", "GAUGE"), id="9.2 add_percent"),
        pytest.param("add_error", ("N", 1), ("unit", "COUNTER"), id="9.2 add_error"),
    ],
)
def test_helpers(metrics, lines, call, arguments, expected) -> None:
    metrics.set_request_ids({0: "rid"})
    assert getattr(metrics, call)(*arguments) is None
    line = lines()[0]
    assert (line["unit"], line["type"]) == expected
    if call == "add_error":
        assert (line["labels"], line["ids"]) == ("Level:Error", None)
    else:
        assert (line["labels"], line["ids"]) == ("ModelName:tiny,Level:Model", "rid")


@pytest.mark.parametrize(
    ("idx", "ids"),
    [
        pytest.param(1, "r1", id="9.2 of one request"),
        pytest.param(None, "r0,r1", id="9.2 of all"),
        pytest.param(9, "r0,r1", id="9.2 of no such request"),
    ],
)
def test_request_ids(metrics, lines, idx, ids) -> None:
    metrics.set_request_ids({0: "r0", 1: "r1"})
    metrics.add_counter("N", 1, idx)
    assert lines()[0]["ids"] == ids


@pytest.mark.parametrize(
    ("dimensions", "labels"),
    [
        pytest.param([], "ModelName:tiny,Level:Model", id="9.2 default labels"),
        pytest.param([("A", "a")], "A:a,ModelName:tiny,Level:Model", id="9.2 behind the caller's"),
        pytest.param(
            [("Level", "Own")], "Level:Own,ModelName:tiny", id="9.2 unless they are named"
        ),
    ],
)
def test_labels(metrics, lines, dimensions, labels) -> None:
    metrics.set_request_ids("rid")
    given = [Dimension(*pair) for pair in dimensions]
    metrics.add_counter("N", 1, None, given)
    assert lines()[0]["labels"] == labels
    assert len(given) == len(dimensions)


@pytest.mark.parametrize(
    ("call", "arguments", "error", "text"),
    [
        pytest.param(
            "add_time", ("N", 1, None, "h"), MetricsCacheValueError, "h", id="9.2 unit of a time"
        ),
        pytest.param(
            "add_size", ("N", 1, None, "TB"), MetricsCacheValueError, "TB", id="9.2 unit of a size"
        ),
        pytest.param(
            "get_metric", ("None",), MetricsCacheKeyError, "None", id="9.2 an unknown metric"
        ),
        pytest.param(
            *("add_metric_to_cache", (3, "ms"), MetricsCacheTypeError),
            "`metric_name` must be a str",
            id="9.2 name",
        ),
        pytest.param(
            *("add_metric_to_cache", ("N", 3), MetricsCacheTypeError),
            "`unit` must be a str",
            id="9.2 unit",
        ),
        pytest.param(
            *("add_metric_to_cache", ("N", "ms", [], "gauge"), MetricsCacheTypeError),
            "`metric_type` must be a MetricTypes enum",
            id="9.2 type",
        ),
        pytest.param(
            *("add_metric_to_cache", ("N", "ms", [3]), MetricsCacheTypeError),
            "`dimension_names` should be a list of dimension name strings",
            id="9.2 dimension names",
        ),
    ],
)
def test_refusals(metrics, call, arguments, error, text) -> None:
    with pytest.raises(error, match=text):
        getattr(metrics, call)(*arguments)


def test_one_name_may_have_each_type_and_the_first_definition_stays(metrics, lines) -> None:
    gauge = metrics.add_metric_to_cache("N", "ms", ["A"], MetricTypes.GAUGE)
    assert isinstance(gauge, CachingMetric)
    assert metrics.add_metric_to_cache(metric_name="N", unit="count") is not gauge
    assert metrics.get_metric("N", MetricTypes.GAUGE) is gauge
    assert {"gauge:N", "counter:N"} <= set(metrics.cache_keys())
    assert lines() == []
    gauge.add_or_update(1, ["a"])
    metrics.get_metric("N").add_or_update(2)
    assert [(line["unit"], line["type"]) for line in lines()] == [
        ("Milliseconds", "GAUGE"),
        ("Count", "COUNTER"),
    ]


@pytest.mark.parametrize(
    ("value", "labels"),
    [pytest.param(-1, ["a"], id="9.2 a counter goes down"), pytest.param(1, [], id="9.2 labels")],
)
def test_a_bad_observation_is_a_line_in_the_log(metrics, caplog, value, labels) -> None:
    metrics.add_metric_to_cache("N", "count", ["A"]).add_or_update(value, labels)
    text = f"[METRICS]Failed to update metric with name:N and dimensions: {','.join(labels)} with"
    assert caplog.messages[0].startswith(f"{text} value: {value}: ")


# 9.4


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        pytest.param(
            "ts_metrics: {}", MetricsCacheKeyError, "'model_metrics' key not found", id="9.4 no key"
        ),
        pytest.param(
            "model_metrics:", MetricsCacheValueError, "Missing `model_metrics`", id="9.4 empty"
        ),
        pytest.param("model_metrics: {rate: []}", MetricsCacheKeyError, "rate", id="9.4 a type"),
        pytest.param(
            "model_metrics: {gauge: [{name: N, unit: ms}]}",
            MetricsCacheKeyError,
            "Key not found in cache spec",
            id="9.4 an entry without dimensions",
        ),
        pytest.param(
            "model_metrics: [", MetricsCachePyYamlError, "not valid YAML", id="9.4 no yaml"
        ),
    ],
)
def test_definitions_that_end_a_worker(tmp_path: Path, text, error, said) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with pytest.raises(error, match=said):
        MetricsCacheYamlImpl(str(path)).initialize_cache()


def test_definitions(tmp_path: Path, lines) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(
        "model_metrics:\n"
        "  histogram: [{name: H, unit: ms, dimensions: [ModelName, Level]}]\n"
        "  counter: [{name: C, unit: count, dimensions: null}]\n"
    )
    cache = MetricsCacheYamlImpl(str(path))
    cache.initialize_cache()
    assert cache.cache_keys() == ["counter:C", "histogram:H"]
    cache.get_metric("C").add_or_update(1)
    cache.model_name = "m"
    cache.set_request_ids("r")
    cache.add_metric("H", 2, "ms", metric_type=MetricTypes.HISTOGRAM)
    assert [line["labels"] for line in lines()] == ["", "ModelName:m,Level:Model"]
    with pytest.raises(MetricsCacheIOError):
        MetricsCacheYamlImpl(str(tmp_path / "absent.yaml"))
