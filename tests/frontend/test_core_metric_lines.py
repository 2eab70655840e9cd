"""Metric lines in a worker's output."""

from __future__ import annotations

import pytest

from tests.core_rig import Rig
from ts.metrics.dimension import Dimension
from ts.metrics.metric import Metric as OldMetric
from ts_frontend.core.metric_lines import metric_of
from ts_worker.messages import Log, Metric

LINE = "[METRICS]Size.Bytes:1.5e3|#ModelName:m,Level:Model|#type:COUNTER|#hostname:h,1717105307"
SIZE = Metric("Size", "Bytes", "counter", 1500.0, (("ModelName", "m"), ("Level", "Model")), "")


@pytest.mark.parametrize(
    ("line", "metric"),
    [
        (LINE, SIZE),
        (f"INFO > {LINE},a,b\n", SIZE._replace(request_ids="a,b")),
        (LINE.replace("|#type:COUNTER", ""), SIZE._replace(type="gauge")),
        (LINE.replace("ModelName:m,Level:Model", ""), SIZE._replace(dimensions=())),
        (LINE.replace("1.5e3", "-"), None),
        (LINE.replace("[METRICS]", ""), None),
        (f"x {LINE}", None),
        ("[METRICS]Failed to update metric with name:N", None),
    ],
)
def test_what_is_a_metric_line(line: str, metric: Metric | None) -> None:
    assert metric_of(line) == metric


def test_the_text_of_a_handlers_own_metric_is_one() -> None:
    old = OldMetric("Size", 3, "kB", [Dimension("ModelName", "m")], "id")
    assert metric_of(f"[METRICS]{old}") == Metric(
        "Size", "Kilobytes", "gauge", 3.0, (("ModelName", "m"),), "id"
    )


async def test_metric_lines_are_recorded_and_not_logged() -> None:
    async with Rig() as rig:
        await rig.serve()
        events = rig.worker.spec.events
        events.output("stdout", LINE)
        events.log(Log(20, "root", LINE))
        assert rig.meter.metrics == [SIZE, SIZE]
        assert rig.log.lines == []
        events.output("stderr", LINE)  # TorchServe read stdout only
        events.output("stdout", "[METRICS]not quite")
        assert [line[1:] for line in rig.log.lines] == [
            ("stderr", 30, LINE),
            ("stdout", 20, "[METRICS]not quite"),
        ]
