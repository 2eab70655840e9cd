"""metrics.yaml (reference §6.3)."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from ts_frontend.metrics.spec import (
    MetricSpec,
    Spec,
    SpecError,
    default_path,
    load_spec,
    parse_spec,
)

GOOD = """
dimensions:
  - &level "Level"
  - &host "Hostname"
ts_metrics:
  counter:
    - {name: Requests2XX, unit: Count, dimensions: [*level, *host]}
  gauge:
    - name: QueueTime
      unit: Milliseconds
      dimensions: [*level, *host]
model_metrics:
  histogram:
    - {name: Size, unit: B, dimensions: [ModelName, *level]}
"""


def test_a_file_is_read_and_model_metrics_get_the_host(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(GOOD)
    assert load_spec(path) == Spec(
        ts=(
            MetricSpec("Requests2XX", "Count", "counter", ("Level", "Hostname")),
            MetricSpec("QueueTime", "Milliseconds", "gauge", ("Level", "Hostname")),
        ),
        model=(MetricSpec("Size", "B", "histogram", ("ModelName", "Level", "Hostname")),),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML"),
        ("\x00", "is not valid YAML"),
        ("- 1", "must hold a mapping"),
        ("ts_metrics: [1]", "ts_metrics must be a mapping of counter, gauge, histogram"),
        ("ts_metrics: {meter: []}", "ts_metrics has unknown type 'meter'"),
        ("model_metrics: {gauge: {}}\nts_metrics: {gauge: x}", "ts_metrics.gauge must be a list"),
        ("ts_metrics: {gauge: [1]}", "each entry needs name, unit and dimensions"),
        ("ts_metrics: {gauge: [{unit: ms}]}", "an entry has no name"),
        ("ts_metrics: {gauge: [{name: a, unit: ''}]}", "a has no unit"),
        ("ts_metrics: {gauge: [{name: a, unit: b, dimensions: x}]}", "must be a list of names"),
    ],
)
def test_a_bad_file_names_the_place_and_means_no_metrics(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, message: str
) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=message):
        parse_spec(path)
    with caplog.at_level(logging.ERROR):
        assert load_spec(path) == Spec()
    assert str(path) in caplog.text


def test_a_missing_file_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load_spec(tmp_path / "none.yaml") == Spec()
    assert "No such file" in caplog.text
    assert load_spec(None) == Spec()
    assert "set metrics_config" in caplog.text


def test_the_packaged_file_is_found_without_importing_ts() -> None:
    path = default_path()
    if path is None:
        pytest.skip("handlers/ts has no configs yet")
    names = {metric.name: metric for metric in parse_spec(path).ts}
    assert names["Requests2XX"].dimensions == ("Level", "Hostname")
    assert names["ts_inference_requests_total"].dimensions == (
        "model_name",
        "model_version",
        "hostname",
    )
    assert names["WorkerLoadTime"].dimensions == ("WorkerName", "Level", "Hostname")
    models = {metric.name: metric for metric in parse_spec(path).model}
    assert models["PredictionTime"] == MetricSpec(
        "PredictionTime", "ms", "gauge", ("ModelName", "Level", "Hostname")
    )
