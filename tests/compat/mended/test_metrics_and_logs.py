"""Mended on purpose: what stands in /metrics and in the log files."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest

from tests.compat.scenes import properties
from tests.frontend.http_fakes import FakeLogs
from ts_frontend.config import Config, load_config
from ts_frontend.log_files import FileSink
from ts_frontend.logs import Logs
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec


@pytest.mark.parametrize("mode", ["log", "legacy", "prometheus"])
async def test_metrics_are_shown_in_every_mode(mode: str) -> None:
    """TorchServe's /metrics was empty in the mode "log", its default; the log lines stay."""
    logs = FakeLogs()
    recorder = Recorder(load_spec(default_path()), logs, host="h", mode=mode)  # type: ignore[arg-type]
    recorder.http_status(200)
    assert b'\nRequests2XX{Level="Host",Hostname="h",} 1.0\n' in recorder.render([])
    assert len(logs.ts) == (mode != "prometheus")


def test_latencies_are_counters_and_histograms() -> None:
    """TorchServe summed microseconds up in two counters, which give averages only."""
    recorder = Recorder(load_spec(default_path()), FakeLogs(), host="h")
    recorder.meter("m", "default").answered(20_000.0, 400.0)
    text = recorder.render([]).decode()
    labels = 'model_name="m",model_version="default",hostname="h",'
    for name, value in (("inference", "20000.0"), ("queue", "400.0")):
        assert f"ts_{name}_latency_microseconds{{{labels}}} {value}\n" in text
    for name, bound in (("request", "0.025"), ("queue", "5.0E-4")):
        sample = f"ts_inference_{name}_duration_seconds_bucket{{{labels}"
        assert f'{sample}le="{bound}",}} 1.0\n' in text


def test_own_lines_stand_in_the_log_once(tmp_path: Path) -> None:
    logs = Logs(Config(log_location=tmp_path, metrics_location=tmp_path), stdout=None)
    logs.open()
    logging.getLogger("ts_frontend.x").warning("a line")
    logs.close()
    assert (tmp_path / "ts_log.log").read_text().count("a line") == 1


def test_nobody_forges_entries_of_the_log(tmp_path: Path) -> None:
    """TorchServe's pattern ends with the message as it is."""
    logs = Logs(Config(log_location=tmp_path, metrics_location=tmp_path), stdout=None)
    logs.open()
    try:
        url = "a\n1999-12-31T00:00:00,000 [ERROR] main x - forged"
        logging.getLogger("ts_frontend").error("Failed to load model: %s", url)
    finally:
        logs.close()
    first, second = (tmp_path / "ts_log.log").read_text().splitlines()
    assert first.endswith(" - Failed to load model: a")
    assert second == "    1999-12-31T00:00:00,000 [ERROR] main x - forged"


def test_each_rolled_file_of_a_day_is_kept(tmp_path: Path) -> None:
    """TorchServe's name of a rolled file has the day only."""
    sink = FileSink(tmp_path / "a.log", max_bytes=8)
    sink.open()
    for text in ("first\n", "second\n", "third\n"):
        sink.write(text)
    sink.close()
    rolled = [gzip.decompress(path.read_bytes()) for path in tmp_path.glob("*.gz")]
    assert sorted(rolled) == [b"first\n", b"second\n"]


def test_a_log4j2_file_counts_for_its_levels(tmp_path: Path) -> None:
    (tmp_path / "log4j2.xml").write_text(
        '<Configuration><Appenders><Console name="out"><JSONPatternLayout/></Console></Appenders>'
        '<Loggers><Logger name="ACCESS_LOG" level="off"/></Loggers></Configuration>'
    )
    properties(tmp_path, "log_format=json")
    environ = {"LOG_LOCATION": str(tmp_path), "METRICS_LOCATION": str(tmp_path)}
    config = load_config({"log_config": "log4j2.xml"}, environ, tmp_path)
    logs = Logs(config, stdout=None)
    logs.open()
    logs.access("not wanted")
    logs.close()
    assert (tmp_path / "access_log.log").read_text() == ""
    (line,) = (tmp_path / "ts_log.log").read_text().splitlines()
    assert "appenders out (" in json.loads(line)["message"]
