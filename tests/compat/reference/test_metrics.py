"""The metrics API 6.1 and the metrics there are 6.4, on a real server.

Not here: that gRPC calls do not count as requests (6.4), since gRPC comes with later work.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.compat.reference.conftest import Ask
from tests.compat.reference.metrics_page import HOST, Page, samples
from tests.compat.reference.wire import ask
from tests.e2e.conftest import Server, until

pytestmark = pytest.mark.e2e

LEVEL = {"Level": "Host", "Hostname": HOST}


# 6.1: the API


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/metrics/anything?format=json"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_the_page(metrics: Ask, method: str, path: str) -> None:
    """6.1 any method, /metrics/..., no other parameters."""
    reply = metrics(method, path)
    assert reply.line == "HTTP/1.1 200 OK"
    assert reply.header("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    assert b"\n# TYPE Requests2XX counter\n" in reply.body


def test_names_select_samples(metrics: Ask) -> None:
    """6.1 name[]: repeatable, exact, and families without one are left out."""
    text = metrics("GET", "/metrics?name[]=Requests2XX&name%5B%5D=QueueTime&name[]=Requests").body
    names = {name for name, _ in samples(text.decode())}
    assert names == {"Requests2XX", "QueueTime"}
    assert text.count(b"# TYPE") == 2
    assert metrics("GET", "/metrics?name[]=nothing").body == b""


def test_reading_counts_itself(metrics: Ask) -> None:
    """6.1 reading /metrics itself increments Requests2XX."""
    before = Page(metrics).value("Requests2XX", **LEVEL)
    assert Page(metrics).value("Requests2XX", **LEVEL) == before + 1


def test_a_metric_that_was_never_updated(metrics: Ask) -> None:
    """6.1 shows only HELP and TYPE."""
    page = Page(metrics)
    assert page.head("GPUUtilization")
    if not Path("/dev/nvidia0").exists():
        assert "\nGPUUtilization{" not in page.text


# 6.4: the metrics

REQUEST = ("model_name", "model_version", "hostname")
HOSTS = ("Level", "Hostname")
MODEL = ("ModelName", "Level", "Hostname")


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


def test_describing_is_no_prediction(metrics: Ask, management: Ask) -> None:
    """6.4 not updated on describe."""
    labels = {"model_name": "mirror", "model_version": "default", "hostname": HOST}
    before = Page(metrics)
    assert management("GET", "/models/mirror?customized=true").status == 200
    after = Page(metrics)
    for name in ("ts_inference_requests_total", "ts_inference_latency_microseconds"):
        assert after.value(name, **labels) == before.value(name, **labels)


def test_worker_names(plain: Server, metrics: Ask) -> None:
    """6.4 WorkerLoadTime: WorkerName=W-{port}-{model}_{version}."""
    (worker,) = plain.workers("mirror")
    labels = {"WorkerName": f"W-{worker['id']}-mirror_1.0", **LEVEL}
    assert Page(metrics).value("WorkerLoadTime", **labels) > 0


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
