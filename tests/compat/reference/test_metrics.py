"""Metrics by the tables: the API 6.1, modes 6.2, metrics.yaml 6.3, the metrics 6.4, log lines 6.5.

Not here: that gRPC calls do not count as requests (6.4), since gRPC comes with later work.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.conftest import Ask, registered
from tests.compat.reference.wire import ask
from tests.e2e.conftest import MARS, Server, archive, until
from tests.frontend.http_fakes import FakeLogs
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import MetricSpec, default_path, load_spec, parse_spec
from ts_worker.messages import Metric

HOST = socket.gethostname()
LEVEL = {"Level": "Host", "Hostname": HOST}
SAMPLE = re.compile(r"(?P<name>\w+)(?:{(?P<labels>(?:\w+=\"[^\"]*\",)+)})? (?P<value>\S+)")


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value by name and labels of every sample; each line must have simpleclient's form."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        labels = re.findall(r'(\w+)="([^"]*)",', match["labels"] or "")
        found[match["name"], frozenset(labels)] = float(match["value"])
    return found


class Page:
    """What /metrics shows."""

    def __init__(self, ask: Ask) -> None:
        self.text = ask("GET", "/metrics").body.decode()
        self._samples = samples(self.text)

    def value(self, name: str, **labels: str) -> float:
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def head(self, name: str) -> list[str]:
        return [
            line
            for line in self.text.splitlines()
            if line.startswith((f"# HELP {name} ", f"# TYPE {name} "))
        ]


@pytest.fixture(scope="module")
def measured(plain: Server) -> Server:
    """The plain server with the model ``measures``, which was asked once."""
    archive(plain.store, "measures", MARS / "measures.py")
    registered(plain, "measures.mar", 1)
    assert plain.predict("measures").text == "measured"
    return plain


# 6.1: the API


@pytest.mark.e2e
@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics/anything?format=json"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_the_page(metrics: Ask, method: str, path: str) -> None:
    """6.1 any method, /metrics/..., no other parameters."""
    reply = metrics(method, path)
    assert reply.line == "HTTP/1.1 200 OK"
    assert reply.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\n# TYPE Requests2XX counter\n" in reply.body


@pytest.mark.e2e
def test_names_select_samples(metrics: Ask) -> None:
    """6.1 name[]: repeatable, exact, and families without one are left out."""
    text = metrics("GET", "/metrics?name[]=Requests2XX&name%5B%5D=QueueTime&name[]=Requests").body
    names = {name for name, _ in samples(text.decode())}
    assert names == {"Requests2XX", "QueueTime"}
    assert text.count(b"# TYPE") == 2
    assert metrics("GET", "/metrics?name[]=nothing").body == b""


@pytest.mark.e2e
def test_reading_counts_itself(metrics: Ask) -> None:
    """6.1 reading /metrics itself increments Requests2XX."""
    before = Page(metrics).value("Requests2XX", **LEVEL)
    assert Page(metrics).value("Requests2XX", **LEVEL) == before + 1


@pytest.mark.e2e
def test_a_metric_that_was_never_updated(metrics: Ask) -> None:
    """6.1 shows only HELP and TYPE."""
    page = Page(metrics)
    assert page.head("GPUUtilization")
    if not Path("/dev/nvidia0").exists():
        assert "\nGPUUtilization{" not in page.text


def test_histograms_have_simpleclients_buckets() -> None:
    """6.1 default buckets, and Java's numbers."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h", auto_detect=True)
    recorder.model_metric(Metric("Spread", "Seconds", "histogram", 0.3, (), ""))
    text = recorder.render(["Spread_bucket"]).decode()
    buckets = re.findall(r'Spread_bucket\{Hostname="h",le="([^"]+)",\} ', text)
    assert " ".join(buckets) == (
        "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 +Inf"
    )


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
    recorder.model_metric(Metric("HandlerTime", "Milliseconds", "gauge", 1.0, pairs, "id"))
    assert (len(logs.ts), len(logs.models)) == (server_lines, model_lines)
    shown = {name for name, _ in samples(recorder.render([]).decode())}
    assert {"Requests2XX", "ts_inference_requests_total", "HandlerTime"} <= shown


@pytest.mark.parametrize("detect", [False, True])
def test_unknown_model_metrics(detect: bool) -> None:
    """6.2 dropped unless model_metrics_auto_detect, then of the type that the worker reported."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h", auto_detect=detect)
    recorder.model_metric(Metric("Seen", "Count", "counter", 2.0, (("A", "b"),), ""))
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


# 6.4: the metrics

REQUEST = ("model_name", "model_version", "hostname")
HOSTS = ("Level", "Hostname")
MODEL = ("ModelName", "Level", "Hostname")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "kind", "unit", "dimensions"),
    [
        pytest.param(*row, id=f"6.4 {row[0]}")
        for row in (
            ("Requests2XX", "counter", "Count", HOSTS),
            ("Requests4XX", "counter", "Count", HOSTS),
            ("Requests5XX", "counter", "Count", HOSTS),
            ("ts_inference_requests_total", "counter", "Count", REQUEST),
            ("ts_inference_latency_microseconds", "counter", "Microseconds", REQUEST),
            ("ts_queue_latency_microseconds", "counter", "Microseconds", REQUEST),
            ("QueueTime", "gauge", "Milliseconds", HOSTS),
            ("WorkerThreadTime", "gauge", "Milliseconds", HOSTS),
            ("WorkerLoadTime", "gauge", "Milliseconds", ("WorkerName", *HOSTS)),
            ("CPUUtilization", "gauge", "Percent", HOSTS),
            ("MemoryUtilization", "gauge", "Percent", HOSTS),
            ("DiskUtilization", "gauge", "Percent", HOSTS),
            ("MemoryUsed", "gauge", "Megabytes", HOSTS),
            ("MemoryAvailable", "gauge", "Megabytes", HOSTS),
            ("DiskUsage", "gauge", "Gigabytes", HOSTS),
            ("DiskAvailable", "gauge", "Gigabytes", HOSTS),
            ("GPUMemoryUtilization", "gauge", "Percent", None),
            ("GPUUtilization", "gauge", "Percent", None),
            ("GPUMemoryUsed", "gauge", "Megabytes", None),
            ("HandlerTime", "gauge", "ms", None),
            ("PredictionTime", "gauge", "ms", MODEL),
        )
    ],
)
def test_the_metrics_there_are(
    measured: Server, metrics: Ask, name: str, kind: str, unit: str, dimensions: tuple[str, ...]
) -> None:
    """Type, unit, and the dimensions in their order; None where nothing here has updated it."""
    measured.predict("foo")  # a 404, so that each counter has a sample

    def shown() -> Page | None:
        page = Page(metrics)
        return page if dimensions is None or f"\n{name}{{" in page.text else None

    found = until(shown)
    assert found.head(name) == [
        f"# HELP {name} Torchserve prometheus {kind} metric with unit: {unit}",
        f"# TYPE {name} {kind}",
    ]
    for labels in re.findall(rf"^{name}{{(.*)}} ", found.text, re.MULTILINE):
        assert dimensions is None or tuple(re.findall(r'(\w+)="', labels)) == dimensions


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("port", "path", "body", "name"),
    [
        pytest.param(0, "/ping", None, "Requests2XX", id="6.4 2XX"),
        pytest.param(1, "/models", None, "Requests2XX", id="6.4 2XX of management"),
        pytest.param(0, "/nowhere", None, "Requests4XX", id="6.4 4XX"),
        pytest.param(
            *(0, "/predictions/results", b'{"status": 418}', "Requests4XX"), id="6.4 4XX of handler"
        ),
        pytest.param(0, "/predictions/raises", b"value", "Requests5XX", id="6.4 5XX"),
        pytest.param(0, "/predictions/idle", b"", "Requests5XX", id="6.4 5XX of no worker"),
        pytest.param(
            *(0, "/predictions/results", b'{"status": 302}', "Requests5XX"), id="6.4 3XX is 5XX"
        ),
    ],
)
def test_requests_by_status(
    plain: Server, metrics: Ask, port: int, path: str, body: bytes | None, name: str
) -> None:
    before = Page(metrics)
    ask(plain.ports[port], "GET", path, body)
    after = Page(metrics)
    counters = ("Requests2XX", "Requests4XX", "Requests5XX")
    grown = {one: after.value(one, **LEVEL) - before.value(one, **LEVEL) for one in counters}
    grown["Requests2XX"] -= 1  # the first look at the page
    assert grown == {one: float(one == name) for one in counters}


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("path", "body", "version", "answered"),
    [
        pytest.param("/predictions/mirror", b"", "default", True, id="6.4 literal default"),
        pytest.param("/predictions/mirror/1.0", b"", "1.0", True, id="6.4 version as requested"),
        pytest.param("/explanations/mirror/2.0", b"", "2.0", True, id="6.4 explanations"),
        pytest.param("/predictions/stream", b"2", "default", True, id="6.4 a stream, once"),
        pytest.param(
            "/predictions/results", b'{"status": 500}', "default", True, id="6.4 a handler's status"
        ),
        pytest.param("/predictions/raises", b"", "default", False, id="6.4 not on errors"),
        pytest.param("/predictions/idle", b"", "default", False, id="6.4 before queueing"),
    ],
)
def test_requests_of_models(
    metrics: Ask, inference: Ask, path: str, body: bytes, version: str, answered: bool
) -> None:
    """ts_inference_requests_total counts what found its model, the latencies what was answered."""
    labels = {"model_name": path.split("/")[2], "model_version": version, "hostname": HOST}
    before = Page(metrics)
    inference("POST", path, body)
    after = Page(metrics)

    def grown(name: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert grown("ts_inference_requests_total") == 1
    total, queue = (
        grown("ts_inference_latency_microseconds"),
        grown("ts_queue_latency_microseconds"),
    )
    if answered:
        assert total > queue > 0
    else:
        assert (total, queue) == (0, 0)


@pytest.mark.e2e
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/predictions/foo", id="6.4 accepted: an unknown model is not"),
        pytest.param("/predictions/mirror/9", id="6.4 accepted: an unknown version is not"),
    ],
)
def test_requests_that_find_no_model(metrics: Ask, inference: Ask, path: str) -> None:
    inference("POST", path, b"")
    text = Page(metrics).text
    assert 'model_name="foo"' not in text
    assert 'model_version="9"' not in text


@pytest.mark.e2e
def test_describing_is_no_prediction(metrics: Ask, management: Ask) -> None:
    """6.4 not updated on describe."""
    labels = {"model_name": "mirror", "model_version": "default", "hostname": HOST}
    before = Page(metrics)
    assert management("GET", "/models/mirror?customized=true").status == 200
    after = Page(metrics)
    for name in ("ts_inference_requests_total", "ts_inference_latency_microseconds"):
        assert after.value(name, **labels) == before.value(name, **labels)


@pytest.mark.e2e
def test_worker_names(plain: Server, metrics: Ask) -> None:
    """6.4 WorkerLoadTime: WorkerName=W-{port}-{model}_{version}."""
    (worker,) = plain.workers("mirror")
    labels = {"WorkerName": f"W-{worker['id']}-mirror_1.0", **LEVEL}
    assert Page(metrics).value("WorkerLoadTime", **labels) > 0


@pytest.mark.e2e
def test_prediction_time_is_of_successes(metrics: Ask, inference: Ask) -> None:
    """6.4 PredictionTime: each successful batch."""
    inference("POST", "/predictions/raises", b"value")
    labels = {"Level": "Model", "Hostname": HOST}
    inference("POST", "/predictions/mirror", b"")
    page = Page(metrics)
    assert ("PredictionTime", frozenset({"ModelName": "mirror", **labels}.items())) in page._samples
    assert (
        "PredictionTime",
        frozenset({"ModelName": "raises", **labels}.items()),
    ) not in page._samples


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
