"""What is recorded, logged and shown in each mode (reference §6.2-6.5)."""

from __future__ import annotations

import tracemalloc
from typing import Literal

import pytest

from tests.frontend.http_fakes import FakeLogs
from ts_frontend.metrics import model_series
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import MetricSpec, Spec
from ts_worker.messages import Metric

HOST = ("Level", "Hostname")
MODEL = ("model_name", "model_version", "hostname")
SPEC = Spec(
    ts=(
        MetricSpec("Requests2XX", "Count", "counter", HOST),
        MetricSpec("Requests4XX", "Count", "counter", HOST),
        MetricSpec("Requests5XX", "Count", "counter", HOST),
        MetricSpec("ts_inference_requests_total", "Count", "counter", MODEL),
        MetricSpec("ts_inference_latency_microseconds", "Microseconds", "counter", MODEL),
        MetricSpec("ts_queue_latency_microseconds", "Microseconds", "counter", MODEL),
        MetricSpec("QueueTime", "Milliseconds", "gauge", HOST),
        MetricSpec("WorkerThreadTime", "Milliseconds", "gauge", HOST),
        MetricSpec("WorkerLoadTime", "Milliseconds", "gauge", ("WorkerName", "Level", "Hostname")),
        MetricSpec("GPUUtilization", "Percent", "gauge", ("Level", "DeviceId", "Hostname")),
    ),
    model=(
        MetricSpec("PredictionTime", "ms", "gauge", ("ModelName", "Level", "Hostname")),
        MetricSpec("Words", "Count", "counter", ("ModelName", "Level", "Hostname")),
        MetricSpec("Tokens", "Count", "histogram", ("ModelName", "Level", "Hostname")),
        MetricSpec("Odd Name", "Count", "gauge", ("ModelName", "Level", "Hostname")),
    ),
)
Mode = Literal["log", "prometheus", "legacy"]


class Rig:
    """A recorder whose clock stands, and its logs."""

    def __init__(self, mode: Mode = "log", spec: Spec = SPEC, auto_detect: bool = False) -> None:
        self.now = 1717105307.9
        self.logs = FakeLogs(clock=lambda: self.now)
        self.recorder = Recorder(
            spec,
            self.logs,
            host="h1",
            mode=mode,
            auto_detect=auto_detect,
        )

    def samples(self) -> dict[str, float]:
        """Every sample of the registry by name and labels."""
        lines = self.recorder.render([]).decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def observe_everything(self) -> None:
        """One of each."""
        self.recorder.http_status(200)
        meter = self.recorder.meter("m", "default")
        meter.accepted()
        meter.answered(9500.5, 7250.0)
        self.recorder.model_metric(metric(), "m", "1.0")


def metric(
    name: str = "PredictionTime",
    kind: str = "gauge",
    value: float = 12.5,
    dimensions: tuple[tuple[str, str], ...] = (("ModelName", "m"), ("Level", "Model")),
    ids: str = "id1,id2",
) -> Metric:
    """An observation as a worker reports it."""
    return Metric(name, "Milliseconds", kind, value, dimensions, ids)


@pytest.mark.parametrize(
    ("status", "name"),
    [
        *((200, "Requests2XX"), (299, "Requests2XX"), (400, "Requests4XX"), (499, "Requests4XX")),
        *((500, "Requests5XX"), (507, "Requests5XX"), (302, "Requests5XX"), (101, "Requests5XX")),
    ],
)
def test_statuses_are_counted_by_class(status: int, name: str) -> None:
    rig = Rig()
    rig.recorder.http_status(status)
    counted = {key: value for key, value in rig.samples().items() if key.startswith("Requests")}
    assert counted[f'{name}{{Level="Host",Hostname="h1",}}'] == 1
    assert sum(counted.values()) == 1
    assert rig.logs.ts == [f"{name}.Count:1.0|#Level:Host|#hostname:h1,timestamp:1717105307"]


def test_log_lines_to_the_byte() -> None:
    rig = Rig()
    rig.observe_everything()
    rig.recorder.worker_load_time("W-9000-m_1.0", 2300)
    rig.recorder.worker_thread_time(0)
    rig.recorder.system("GPUUtilization", "Percent", 50, (("Level", "Host"), ("device_id", "0")))
    labels = "|#model_name:m,model_version:default|#hostname:h1,timestamp:1717105307"
    assert rig.logs.ts == [
        "Requests2XX.Count:1.0|#Level:Host|#hostname:h1,timestamp:1717105307",
        f"ts_inference_requests_total.Count:1.0{labels}",
        f"ts_inference_latency_microseconds.Microseconds:9500.5{labels}",
        f"ts_queue_latency_microseconds.Microseconds:7250.0{labels}",
        "QueueTime.Milliseconds:7.0|#Level:Host|#hostname:h1,timestamp:1717105307",
        "WorkerLoadTime.Milliseconds:2300.0|#WorkerName:W-9000-m_1.0,Level:Host"
        "|#hostname:h1,timestamp:1717105307",
        "WorkerThreadTime.Milliseconds:0.0|#Level:Host|#hostname:h1,timestamp:1717105307",
        "GPUUtilization.Percent:50.0|#Level:Host,DeviceId:0|#hostname:h1,timestamp:1717105307",
    ]
    # The unit is metrics.yaml's, not the worker's.
    assert rig.logs.models == [
        "PredictionTime.ms:12.5|#ModelName:m,Level:Model"
        "|#hostname:h1,requestID:id1,id2,timestamp:1717105307"
    ]


def test_the_time_of_a_line_moves_and_may_go_back() -> None:
    rig = Rig()
    for rig.now in (10.0, 10.99, 11.0, 25.5, 3.0):
        rig.recorder.http_status(200)
    assert [line.rsplit(":", 1)[1] for line in rig.logs.ts] == ["10", "10", "11", "25", "3"]


@pytest.mark.parametrize(
    ("mode", "logged", "model_lines"),
    [
        (
            "log",
            {
                *("Requests2XX", "QueueTime", "ts_inference_requests_total"),
                *("ts_inference_latency_microseconds", "ts_queue_latency_microseconds"),
            },
            1,
        ),
        ("legacy", {"Requests2XX", "QueueTime"}, 1),
        ("prometheus", set(), 0),
    ],
)
def test_modes_differ_in_what_is_logged_but_metrics_are_always_shown(
    mode: Mode, logged: set[str], model_lines: int
) -> None:
    rig = Rig(mode)
    rig.observe_everything()
    assert {line.partition(".")[0] for line in rig.logs.ts} == logged
    assert len(rig.logs.models) == model_lines
    samples = rig.samples()
    labels = '{model_name="m",model_version="default",hostname="h1",}'
    assert samples[f"ts_inference_requests_total{labels}"] == 1
    assert samples[f"ts_inference_latency_microseconds{labels}"] == 9500.5
    assert samples[f"ts_queue_latency_microseconds{labels}"] == 7250
    assert samples['QueueTime{Level="Host",Hostname="h1",}'] == 7
    assert samples['PredictionTime{ModelName="m",Level="Model",Hostname="h1",}'] == 12.5


def test_durations_are_histograms_too() -> None:
    rig = Rig()
    rig.observe_everything()
    samples, labels = rig.samples(), 'model_name="m",model_version="default",hostname="h1",'
    total = "ts_inference_request_duration_seconds"
    assert samples[f"{total}_count{{{labels}}}"] == 1
    assert samples[f"{total}_sum{{{labels}}}"] == pytest.approx(0.0095005)
    assert samples[f'{total}_bucket{{{labels}le="0.005",}}'] == 0
    assert samples[f'{total}_bucket{{{labels}le="0.01",}}'] == 1
    assert samples[f"ts_inference_queue_duration_seconds_sum{{{labels}}}"] == 0.00725


def test_counters_add_gauges_set_histograms_observe() -> None:
    rig = Rig()
    for value in (2.0, 3.0):
        for name, kind in (("Words", "counter"), ("Tokens", "histogram"), ("PredictionTime", "x")):
            rig.recorder.model_metric(metric(name, kind, value), "m", "1.0")
    samples, labels = rig.samples(), '{ModelName="m",Level="Model",Hostname="h1",}'
    assert samples[f"Words{labels}"] == 5
    assert samples[f"Tokens_sum{labels}"] == 5
    assert samples[f"Tokens_count{labels}"] == 2
    assert samples[f"PredictionTime{labels}"] == 3


def test_unknown_model_metrics_are_dropped_or_detected() -> None:
    new = metric("New", "counter", 2, (("ModelName", "m"), ("Color", "red")))
    rig = Rig()
    rig.recorder.model_metric(new, "m", "1.0")
    assert rig.logs.models == []
    rig = Rig(auto_detect=True)
    rig.recorder.model_metric(new, "m", "1.0")
    rig.recorder.model_metric(new, "m", "1.0")
    assert rig.samples()['New{ModelName="m",Color="red",Hostname="h1",}'] == 4
    assert rig.logs.models[0].startswith("New.Milliseconds:2.0|#ModelName:m,Color:red|#hostname:h1")
    assert "# TYPE New counter\n" in rig.recorder.render([]).decode()


def test_what_a_handler_chooses_breaks_no_line_of_the_log() -> None:
    rig = Rig(auto_detect=True)
    new = Metric("New\nName", "m\rs", "gauge", 1.0, (("A\n", "b\x85c"),), "i\nd")
    rig.recorder.model_metric(new, "m", "1.0")
    assert rig.logs.models == [
        "New\\nName.m\\rs:1.0|#A\\n:b\\x85c|#hostname:h1,requestID:i\\nd,timestamp:1717105307"
    ]


def test_what_is_refused_takes_no_memory() -> None:
    rig = Rig()
    tracemalloc.start()
    try:
        for number in range(5000):
            for name in ("Unlisted", f"Unlisted{number}", "PredictionTime"):
                unfit = metric(name, dimensions=(("RequestId", str(number)),))
                rig.recorder.model_metric(unfit, "m", "1.0")
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["Words", "Odd Name"])
def test_a_metric_has_only_so_many_series(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_series, "MAX_SERIES", 3)
    rig = Rig()
    for number in (0, 1, 2, 3, 4, 0):
        dimensions = (("ModelName", "m"), ("Level", str(number)))
        rig.recorder.model_metric(metric(name, value=2, dimensions=dimensions), "m", "1.0")
    assert len(rig.logs.models) == 6
    shown = [value for label, value in rig.samples().items() if label.startswith(name)]
    assert sorted(shown) == ([] if name == "Odd Name" else [2, 2, 4])
    assert sum(map(len, rig.recorder._models._owned.values())) == 3
    assert caplog.text.count(f"Metric {name} has 3 series: further ones are not in /metrics") == 1


def test_only_so_many_metrics_are_detected(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model_series, "MAX_DETECTED", 2)
    rig = Rig(auto_detect=True)
    for number in (0, 1, 2, 3, 0):
        rig.recorder.model_metric(metric(f"New{number}", "counter"), "m", "1.0")
    assert len([name for name in rig.samples() if name.startswith("New")]) == 2
    assert caplog.text.count("Metric New2 and other new ones are dropped") == 1


def test_dimensions_of_other_names_are_the_same_series() -> None:
    rig = Rig()
    for name in ("ModelName", "Model", "M"):
        words = metric("Words", value=1, dimensions=((name, "m"), ("Level", "Model")))
        rig.recorder.model_metric(words, "m", "1.0")
    assert rig.samples()['Words{ModelName="m",Level="Model",Hostname="h1",}'] == 3
    rig.recorder._models.keep(set())
    assert not any(name.startswith("Words") for name in rig.samples())


def test_a_name_prometheus_refuses_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig()
    rig.recorder.model_metric(metric("Odd Name"), "m", "1.0")
    assert len(rig.logs.models) == 1
    assert "Odd" not in rig.recorder.render([]).decode()
    assert "Odd Name is no name for Prometheus" in caplog.text


def test_dimensions_that_do_not_fit_are_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = Rig()
    for _ in range(3):
        rig.recorder.model_metric(metric(dimensions=(("ModelName", "m"),)), "m", "1.0")
    assert rig.logs.models == []
    assert caplog.text.count("PredictionTime has dimensions") == 1


def test_a_file_may_rename_dimensions_and_leave_metrics_out() -> None:
    spec = Spec(ts=(MetricSpec("Requests2XX", "Count", "counter", ("scope", "node")),))
    rig = Rig(spec=spec)
    rig.observe_everything()
    rig.recorder.http_status(500)
    assert rig.logs.ts == ["Requests2XX.Count:1.0|#scope:Host|#hostname:h1,timestamp:1717105307"]
    assert rig.samples()['Requests2XX{scope="Host",node="h1",}'] == 1


def test_without_a_spec_nothing_is_recorded() -> None:
    rig = Rig(spec=Spec())
    rig.observe_everything()
    rig.recorder.worker_load_time("w", 1)
    assert rig.recorder.render([]) == b""
    assert rig.logs.ts == rig.logs.models == []


def test_names_select_samples_exactly() -> None:
    rig = Rig()
    rig.observe_everything()
    text = rig.recorder.render(["QueueTime", "ts_inference_request_duration_seconds_sum"]).decode()
    lines = [line.partition("{")[0] for line in text.splitlines() if line[0] != "#"]
    assert lines == ["QueueTime", "ts_inference_request_duration_seconds_sum"]
    assert rig.recorder.render(["Nothing"]) == b""


def test_a_meter_is_made_once() -> None:
    rig = Rig()
    assert rig.recorder.meter("m", "1") is rig.recorder.meter("m", "1")
    assert rig.recorder.meter("m", "1") is not rig.recorder.meter("m", "2")


def test_a_metric_defined_twice_counts_once(caplog: pytest.LogCaptureFixture) -> None:
    twice = MetricSpec("Requests2XX", "ms", "gauge", ("ModelName", "Hostname"))
    rig = Rig(spec=Spec(ts=SPEC.ts, model=(twice,)))
    rig.recorder.http_status(200)
    rig.recorder.model_metric(metric("Requests2XX", dimensions=(("ModelName", "m"),)), "m", "1.0")
    assert "Requests2XX is defined twice" in caplog.text
    samples = {key: v for key, v in rig.samples().items() if key.startswith("Requests2XX")}
    assert samples == {'Requests2XX{Level="Host",Hostname="h1",}': 1.0}
