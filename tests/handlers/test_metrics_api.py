"""`context.metrics` and the line each observation becomes."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
import sys
import uuid

import pytest

import ts.metrics
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

# The server's pattern for what follows [METRICS] in TorchServe's own frontend.
LINE = re.compile(
    r"\[METRICS](?P<name>[\w\s]+)\.(?P<unit>[\w\s]+):(?P<value>[0-9\-,.e]+)"
    r"\|#(?P<dims>[^|]*)\|#type:(?P<type>[A-Z]+)\|#hostname:(?P<host>[^,]+),(?P<ts>\d+)(,(?P<ids>.*))?"
)


@pytest.fixture
def lines(caplog):
    """The metric lines logged so far, parsed as TorchServe's frontend does."""
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")

    def read() -> list[dict[str, str]]:
        matches = [LINE.fullmatch(message) for message in caplog.messages]
        caplog.clear()
        assert None not in matches
        return [match.groupdict() for match in matches]

    return read


def test_the_line_is_torchserves(metrics, lines):
    metrics.set_request_ids({0: "a", 1: "b"})
    metrics.add_time("PredictionTime", 12.34, None, "ms")
    (line,) = lines()
    assert line.pop("ts").isdigit()
    assert line == {
        "name": "PredictionTime",
        "unit": "Milliseconds",
        "value": "12.34",
        "dims": "ModelName:tiny,Level:Model",
        "type": "GAUGE",
        "host": socket.gethostname(),
        "ids": "a,b",
    }


@pytest.mark.parametrize(
    ("call", "name", "unit", "kind", "dims"),
    [
        (lambda m: m.add_counter("N", 1), "N", "Count", "COUNTER", "ModelName:tiny,Level:Model"),
        (lambda m: m.add_size("S", 1), "S", "Megabytes", "GAUGE", "ModelName:tiny,Level:Model"),
        (lambda m: m.add_size("S", 1, None, "kB"), "S", "Kilobytes", "GAUGE", None),
        (lambda m: m.add_percent("P", 1), "P", "Percent", "GAUGE", None),
        (lambda m: m.add_time("T", 1, None, "s"), "T", "Seconds", "GAUGE", None),
        (lambda m: m.add_metric("M", 1, "things"), "M", "things", "COUNTER", None),
        (lambda m: m.add_error("E", 1), "E", "unit", "COUNTER", "Level:Error"),
        (
            lambda m: m.add_metric("H", 1, "ms", None, [], MetricTypes.HISTOGRAM),
            "H",
            "Milliseconds",
            "HISTOGRAM",
            None,
        ),
        (
            lambda m: m.add_counter("D", 1, None, [Dimension("Level", "Mine"), Dimension("a", 2)]),
            "D",
            "Count",
            "COUNTER",
            "Level:Mine,a:2,ModelName:tiny",
        ),
    ],
)
def test_each_helper_has_its_unit_type_and_labels(metrics, lines, call, name, unit, kind, dims):
    metrics.set_request_ids({0: "a"})
    call(metrics)
    (line,) = lines()
    assert (line["name"], line["unit"], line["type"]) == (name, unit, kind)
    if dims is not None:
        assert line["dims"] == dims


def test_the_request_id_is_that_of_the_index_or_all_of_them(metrics, lines):
    metrics.set_request_ids({0: "a", 1: "b"})
    metrics.add_counter("N", 1, 1)
    metrics.add_counter("N", 1, 7)
    metrics.add_error("E", 1)
    assert [line["ids"] for line in lines()] == ["b", "a,b", None]
    metrics.set_request_ids(None)
    metrics.add_counter("Lonely", 1)
    (line,) = lines()
    assert (line["dims"], line["ids"]) == ("Level:Error", None)


def test_the_record_carries_the_observation_unformatted(metrics, caplog):
    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    metrics.set_request_ids({0: "a"})
    metrics.add_counter("N", 2, 0, [Dimension("k", 5)])
    (record,) = caplog.records
    labels = [("k", "5"), ("ModelName", "tiny"), ("Level", "Model")]
    assert record.metric == ("N", "Count", "counter", 2, labels, "a")
    assert (record.levelno, record.name) == (logging.INFO, "ts.metrics.caching_metric")
    # A formatter of the user's still finds every field of an ordinary record.
    formatter = logging.Formatter("%(process)d %(threadName)s %(asctime)s %(message)s")
    assert formatter.format(record).endswith(record.getMessage())


def test_nothing_is_made_when_nobody_listens(metrics, monkeypatch):
    logger = logging.getLogger("ts.metrics.caching_metric")
    monkeypatch.setattr(logger, "handle", lambda record: pytest.fail("a record was made"))
    logger.setLevel(logging.WARNING)
    try:
        metrics.add_counter("N", 1)
    finally:
        logger.setLevel(logging.NOTSET)


def test_the_first_definition_stays(metrics, lines):
    metrics.set_request_ids({0: "a"})
    metrics.add_metric_to_cache("N", "ms", ["ModelName", "Level"], MetricTypes.COUNTER)
    metrics.add_counter("N", 1)
    assert lines()[0]["unit"] == "Milliseconds"
    assert metrics.get_metric("N").metric_type is MetricTypes.COUNTER
    metrics.add_percent("N", 1)  # the same name as another type
    assert metrics.get_metric("N", MetricTypes.GAUGE).unit == "Percent"
    assert {"counter:N", "gauge:N"} <= set(metrics.cache_keys())


def test_the_callers_list_of_dimensions_is_left_alone(metrics):
    mine: list[Dimension] = []
    metrics.add_counter("N", 1, None, mine)
    metrics.add_percent("P", 1, dimensions=mine)
    assert mine == []


@pytest.mark.parametrize(
    ("value", "labels", "reason"),
    [(-1, ["x"], "cannot go down"), (1, [], "expected the dimensions"), ("a", ["x"], "no number")],
)
def test_a_bad_observation_is_logged_and_not_raised(caplog, value, labels, reason):
    CachingMetric("N", "count", ["k"]).add_or_update(value, labels)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("[METRICS]Failed to update metric with name:N and ")
    assert reason in record.getMessage()


def test_numbers_of_torch_and_numpy_are_numbers(metrics, caplog):
    import numpy
    import torch

    caplog.set_level(logging.INFO, "ts.metrics.caching_metric")
    for value in (torch.tensor(1.5), numpy.float32(1.5), numpy.int64(2), True):
        metrics.add_percent("P", value)
    assert [record.metric[3] for record in caplog.records] == [1.5, 1.5, 2.0, 1.0]
    assert all(type(record.metric[3]) is float for record in caplog.records)


def test_wrong_units_and_types_are_errors(metrics):
    with pytest.raises(MetricsCacheValueError, match="minutes"):
        metrics.add_time("T", 1, None, "minutes")
    with pytest.raises(MetricsCacheValueError, match="TB"):
        metrics.add_size("S", 1, None, "TB")
    for kwargs, said in (
        ({"metric_name": 1, "unit": "ms"}, "`metric_name` must be a str"),
        ({"metric_name": "a", "unit": 1}, "`unit` must be a str"),
        ({"metric_name": "a", "unit": "b", "metric_type": "x"}, "`metric_type` must be a Metric"),
        ({"metric_name": "a", "unit": "b", "dimension_names": [1]}, "`dimension_names` should be"),
        ({"metric_name": "a", "unit": "b", "dimension_names": "x"}, "`dimension_names` should be"),
    ):
        with pytest.raises(MetricsCacheTypeError, match=said):
            metrics.add_metric_to_cache(**kwargs)
    with pytest.raises(MetricsCacheKeyError, match="'Nope'"):
        metrics.get_metric("Nope")


def test_the_defaults_are_torchserves(metrics):
    assert metrics.cache_keys() == ["gauge:HandlerTime", "gauge:PredictionTime"]
    metric = metrics.get_metric("HandlerTime", MetricTypes.GAUGE)
    assert (metric.unit, metric.dimension_names) == ("Milliseconds", ["ModelName", "Level"])
    system = metrics._parse_metrics_section("ts_metrics")
    names = [entry["name"] for entries in system.values() for entry in entries]
    assert len(names) == 19
    # The server's own metrics end with the host's name.
    last = {entry["dimensions"][-1].lower() for entries in system.values() for entry in entries}
    assert last == {"hostname"}


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("ts_metrics: {}", MetricsCacheKeyError, "'model_metrics' key not found in yaml file"),
        ("", MetricsCacheKeyError, "'model_metrics' key not found"),
        ("model_metrics:", MetricsCacheValueError, "Missing `model_metrics` specification"),
        ("model_metrics: {timer: []}", MetricsCacheKeyError, "timer"),
        (
            "model_metrics: {gauge: [{name: a, unit: b}]}",
            MetricsCacheKeyError,
            "Key not found in cache spec: 'dimensions'",
        ),
    ],
)
def test_a_bad_definition_is_named(tmp_path, text, error, said):
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    cache = MetricsCacheYamlImpl(str(path))
    with pytest.raises(error, match=re.escape(said)) as caught:
        cache.initialize_cache()
    assert isinstance(caught.value, GeneralMetricsCacheError)
    assert str(path) in str(caught.value)


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(MetricsCacheIOError, match="Cannot read"):
        MetricsCacheYamlImpl(str(tmp_path / "none.yaml"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(MetricsCachePyYamlError, match="not valid YAML"):
        MetricsCacheYamlImpl(str(tmp_path / "bad.yaml"))
    with pytest.raises(MetricsCacheTypeError):
        MetricsCacheYamlImpl(None)  # type: ignore[arg-type]


def test_dimensions_without_names_are_an_empty_list(tmp_path, lines):
    path = tmp_path / "metrics.yaml"
    path.write_text("model_metrics: {counter: [{name: a, unit: count, dimensions: }]}")
    cache = MetricsCacheYamlImpl(str(path))
    cache.initialize_cache()
    cache.get_metric("a").add_or_update(1, [], "r")
    (line,) = lines()
    assert (line["name"], line["dims"], line["ids"]) == ("a", "", "r")


def test_the_former_store_collects_first_observations_and_logs_later_ones(lines):
    store = MetricsStore({0: "r"}, "old")
    store.add_counter("C", 3, 0)
    assert lines() == []
    (metric,) = store.store
    assert str(metric).startswith("C.Count:3|#ModelName:old,Level:Model|#hostname:")
    assert str(metric).endswith(",r")
    store.add_counter("C", 4, 0)
    (line,) = lines()
    assert (line["value"], line["type"], line["ids"]) == ("4", "COUNTER", "r")
    store.add_counter("C", 3, 0, [Dimension("part", "a")])
    store.add_error("E", 1)
    assert [str(each).split("|")[1] for each in store.store] == [
        "#ModelName:old,Level:Model",
        "#part:a,ModelName:old,Level:Model",
        "#Level:Error",
    ]


def test_request_ids_may_be_any_object(metrics, lines):
    mine = uuid.uuid4()
    store = MetricsStore(mine, "old")
    store.add_time("T", 3, 0)
    assert store.store[0].request_id == str(mine)
    metrics.set_request_ids(mine)
    metrics.add_time("T", 3)
    assert lines()[0]["ids"] == str(mine)


@pytest.mark.parametrize(
    "name",
    ["dimension", "metric", "metric_encoder", "metrics_store", "system_metrics", "unit"],
)
def test_the_package_has_its_modules(name):
    script = f"import ts.metrics, sys; assert ts.metrics.{name} is sys.modules['ts.metrics.{name}']"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    with pytest.raises(AttributeError, match=r"'ts\.metrics' has no attribute 'nothing'"):
        _ = ts.metrics.nothing


@pytest.mark.parametrize("kind", ["counter", "c", None, [], str])
def test_the_type_of_a_metric_is_no_text(metrics, kind):
    for call in (
        lambda: metrics.add_metric("N", 1, "count", metric_type=kind),
        lambda: metrics.add_time("N", 1, metric_type=kind),
        lambda: metrics.add_metric_to_cache("N", "count", [], kind),
    ):
        with pytest.raises(MetricsCacheTypeError, match="`metric_type` must be a MetricTypes enum"):
            call()


def test_what_a_handler_chooses_breaks_no_line(metrics, lines, caplog):
    mine = [Dimension("Path\n", "a\nb\r\u2028[METRICS]Fake.Count:9|#")]
    metrics.set_request_ids({0: "r\nx"})
    metrics.add_counter("C", 1, 0, mine)
    # Nothing is hidden from whoever reads the record itself.
    assert caplog.records[0].metric[4][0] == ("Path\n", mine[0].value)
    (text,) = caplog.messages
    assert r"|#Path\n:a\nb\r\u2028[METRICS]Fake.Count:9|#,ModelName:tiny" in text
    assert text.endswith(r",r\nx")
    caplog.clear()
    metrics.add_counter("C", -1, 0, mine)
    assert len(str(Metric("M\n", 1, "ms", mine)).splitlines()) == 1
    assert len(caplog.messages[0].splitlines()) == 1


def test_the_former_classes_still_work(lines, caplog):
    metric = CachingMetric("N", "count", ["x"])
    metric.update(2, "r", [Dimension("y", "z")])
    assert metric.dimension_names == ["y"]
    assert "Overriding" in caplog.messages[0]
    caplog.clear()
    metric.emit_metrics("r", 4, "a:b,c:d")
    assert lines()[0]["dims"] == "a:b,c:d"
    single = Metric("M", 1, "ms", [Dimension("a", "b")], "rid", "counter")
    single.update(5)
    single.reset()
    assert [(line["value"], line["type"]) for line in lines()] == [
        ("5", "COUNTER"),
        ("0", "COUNTER"),
    ]
    assert single.value == 1
    text = str(single)
    assert text.startswith("M.Milliseconds:1|#a:b|#hostname:")
    assert text.endswith(",rid")
    encoded = json.loads(json.dumps([single], cls=MetricEncoder))[0]
    assert (encoded["MetricName"], encoded["RequestId"]) == ("M", "rid")
    assert encoded["Dimensions"] == [{"Name": "a", "Value": "b"}]
    assert Units().units["GB"] == "Gigabytes"


def test_a_forked_workers_records_carry_its_own_pid(metrics):
    script = (
        "import logging, os, sys\n"
        "from ts.metrics.caching_metric import MetricRecord\n"
        "observed = ('N', 'Count', 'counter', 1, [], '')\n"
        "assert MetricRecord(observed).process == os.getpid()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    os._exit(0 if MetricRecord(observed).process == os.getpid() else 1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
