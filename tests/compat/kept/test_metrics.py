"""Kept on purpose: what /metrics counts, and how it writes it."""

from __future__ import annotations

from tests.compat.scenes import get
from tests.core_rig import Rig
from tests.fakes import make_request
from tests.frontend.http_fakes import FakeLogs, edge, post, talk
from ts_frontend.core.job import Answer
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec
from ts_worker.messages import Request


def test_prometheus_lines_have_a_trailing_comma() -> None:
    """TorchServe's Prometheus client wrote a comma behind the last label, and Java's numbers."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h")
    recorder.meter("m", "default").answered(2e7, 1.0)
    text = recorder.render(["ts_inference_latency_microseconds"]).decode()
    labels = 'model_name="m",model_version="default",hostname="h",'
    assert text.endswith(f"\nts_inference_latency_microseconds{{{labels}}} 2.0E7\n")


async def test_reading_metrics_counts_and_redirects_are_5xx() -> None:
    """In TorchServe a look at /metrics was a request too, and Requests5XX all that is neither 2xx
    nor 4xx."""

    async def elsewhere(request: Request) -> Answer:
        return Answer(302, "", b"", b"")

    async with edge(behaviour=elsewhere) as e:
        await talk(e.port, post("/predictions/m"))
        await get(e.url("/metrics", 2))
        text = (await get(e.url("/metrics", 2)))[1]
    assert 'Requests2XX{Level="Host",Hostname="here",} 1.0' in text
    assert 'Requests5XX{Level="Host",Hostname="here",} 1.0' in text


async def test_requests_without_a_version_are_labelled_default() -> None:
    """TorchServe's model_version label was what the client asked for, "default" for nothing."""
    async with Rig() as rig:
        await rig.serve()
        await rig.inference.predict("m", None, make_request())
        await rig.inference.predict("m", "1.0", make_request())
        assert set(rig.meter.models) == {("m", "default"), ("m", "1.0")}
