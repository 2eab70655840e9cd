"""Metrics that are logged and metrics of handlers: modes 6.2, metrics.yaml 6.3, log lines 6.5."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.conftest import Ask
from tests.compat.reference.metrics_page import HOST, Page, samples
from tests.e2e.conftest import Server, until
from tests.frontend.http_fakes import FakeLogs
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import MetricSpec, default_path, load_spec, parse_spec
from ts_worker.messages import Metric

# 6.2: modes


@pytest.mark.parametrize(
    ("mode", "server_lines", "model_lines"),
    [
        pytest.param("log", 2, 1, id="6.2 log"),
        pytest.param("legacy", 1, 1, id="6.2 legacy: the three ts_ are counters only"),
        pytest.param("prometheus", 0, 0, id="6.2 prometheus: nothing is logged"),
    ],
)
def test_modes(mode: Any, server_lines: int, model_lines: int) -> None:
    """What is logged. TorchServe showed everything in one mode only: mended, all modes do."""
    logs = FakeLogs()
    recorder = Recorder(load_spec(default_path()), logs, host="h", mode=mode)
    recorder.http_status(200)
    recorder.meter("m", "default").accepted()
    pairs = (("ModelName", "m"), ("Level", "Model"))
    recorder.model_metric(
        Metric("HandlerTime", "Milliseconds", "gauge", 1.0, pairs, "id"), "m", "1.0"
    )
    assert (len(logs.ts), len(logs.models)) == (server_lines, model_lines)
    shown = {name for name, _ in samples(recorder.render([]).decode())}
    assert {"Requests2XX", "ts_inference_requests_total", "HandlerTime"} <= shown


@pytest.mark.parametrize("detect", [False, True])
def test_unknown_model_metrics(detect: bool) -> None:
    """6.2 dropped unless model_metrics_auto_detect, then of the type that the worker reported."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h", auto_detect=detect)
    recorder.model_metric(Metric("Seen", "Count", "counter", 2.0, (("A", "b"),), ""), "m", "1.0")
    text = recorder.render(["Seen"]).decode()
    assert text == (
        "# HELP Seen Torchserve prometheus counter metric with unit: Count\n"
        '# TYPE Seen counter\nSeen{A="b",Hostname="h",} 2.0\n'
        if detect
        else ""
    )


def test_a_yaml_that_cannot_be_used(tmp_path: Path) -> None:
    """6.2 failure to load the yaml: no metrics at all."""
    recorder = Recorder(load_spec(tmp_path / "none.yaml"), FakeLogs(), host="h")
    recorder.http_status(200)
    assert recorder.render([]) == b""


# 6.3: metrics.yaml

YAML = """
dimensions: [&host Hostname]
ts_metrics:
  counter: [{name: Requests2XX, unit: Count, dimensions: [Level, *host]}]
model_metrics:
  histogram: [{name: Mine, unit: ms, dimensions: [ModelName]}]
"""


def test_the_structure_of_metrics_yaml(tmp_path: Path) -> None:
    """6.3: for ts_metrics the last dimension is the host's; to model_metrics it is added."""
    path = tmp_path / "metrics.yaml"
    path.write_text(YAML)
    spec = parse_spec(path)
    assert spec.ts == (MetricSpec("Requests2XX", "Count", "counter", ("Level", "Hostname")),)
    assert spec.model == (MetricSpec("Mine", "ms", "histogram", ("ModelName", "Hostname")),)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("name: Mine", "name: ''", id="6.3 empty name"),
        pytest.param("unit: ms", "unit: ''", id="6.3 empty unit"),
        pytest.param("histogram", "summary", id="6.3 unknown type"),
    ],
)
def test_rejected_yamls(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(YAML.replace(old, new))
    spec = load_spec(path)
    assert (spec.ts, spec.model) == ((), ())


def test_histograms_have_simpleclients_buckets() -> None:
    """6.1 default buckets, and Java's numbers."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h", auto_detect=True)
    recorder.model_metric(Metric("Spread", "Seconds", "histogram", 0.3, (), ""), "m", "1.0")
    text = recorder.render(["Spread_bucket"]).decode()
    buckets = re.findall(r'Spread_bucket\{Hostname="h",le="([^"]+)",\} ', text)
    assert " ".join(buckets) == (
        "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf"
    )


@pytest.mark.e2e
def test_a_handlers_own_metrics(measured: Server, metrics: Ask) -> None:
    """6.2 auto-detected, of each type; 6.5 a printed line counts as well."""
    found = until(lambda: (page := Page(metrics)).head("Printed") and page)
    model = {"ModelName": "measures", "Level": "Model", "Hostname": HOST}
    assert found.value("Seen", **model) == 1
    assert found.value("Room", Place="here", **model) == 2.5
    assert found.value("Spread_bucket", **model, le="0.5") == 1
    assert found.value("Printed", Kind="line", Hostname=HOST) == 1


# 6.5: log lines

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} - "
TIME = r"timestamp:\d{10}"


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("file", "line"),
    [
        pytest.param(
            *("ts_metrics", rf"Requests2XX\.Count:1\.0\|#Level:Host\|#hostname:{HOST},{TIME}"),
            id="6.5 ts_metrics counter, the increment",
        ),
        pytest.param(
            "ts_metrics",
            r"ts_inference_requests_total\.Count:1\.0\|#model_name:measures,model_version:default"
            rf"\|#hostname:{HOST},{TIME}",
            id="6.5 ts_metrics of a model",
        ),
        pytest.param(
            *(
                "ts_metrics",
                rf"QueueTime\.Milliseconds:\d+\.0\|#Level:Host\|#hostname:{HOST},{TIME}",
            ),
            id="6.5 ts_metrics gauge",
        ),
        pytest.param(
            *(
                "ts_metrics",
                rf"MemoryUsed\.Megabytes:\d+\.\d+(E\d+)?\|#Level:Host\|#hostname:{HOST},{TIME}",
            ),
            id="6.5 ts_metrics of the system",
        ),
        pytest.param(
            "model_metrics",
            r"PredictionTime\.ms:\d+\.\d+\|#ModelName:measures,Level:Model"
            rf"\|#hostname:{HOST},requestID:[0-9a-f-]{{36}},{TIME}",
            id="6.5 model_metrics with the yaml's unit",
        ),
        pytest.param(
            "model_metrics",
            r"Room\.Gigabytes:2\.5\|#Place:here,ModelName:measures,Level:Model"
            rf"\|#hostname:{HOST},requestID:[0-9a-f-]{{36}},{TIME}",
            id="6.5 worker's short units are expanded",
        ),
        pytest.param(
            "model_metrics",
            rf"Printed\.Count:1\.0\|#Kind:line\|#hostname:{HOST},requestID:[0-9a-f-]{{36}},{TIME}",
            id="6.5 a worker's stdout line",
        ),
    ],
)
def test_log_lines(measured: Server, file: str, line: str) -> None:
    pattern = re.compile(f"^{STAMP}{line}$", re.MULTILINE)
    until(lambda: pattern.search(measured.log(file)))


@pytest.mark.e2e
def test_metric_lines_are_consumed(measured: Server) -> None:
    """6.5 lines that match are not written to model_log."""
    until(lambda: "not a metric" in measured.log("model_log"))
    assert "[METRICS]" not in measured.log("model_log")
