"""`log_format=json`: every line of every file and of standard output is one object."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.frontend.log_writers import Said, by_writer, write_at_once
from ts_frontend import log_files
from ts_frontend.config import Config
from ts_frontend.log_files import ConsoleSink
from ts_frontend.log_lines import Source, _object, printed
from ts_frontend.logs import Logs
from ts_frontend.metrics.recorder import Recorder
from ts_frontend.metrics.spec import default_path, load_spec
from ts_worker.messages import Metric

FILES = ("access_log", "ts_log", "model_log", "ts_metrics", "model_metrics")
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d"


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logs(tmp_path: Path, console: io.StringIO) -> Iterator[Logs]:
    logs = open_logs(tmp_path, console)
    yield logs
    logs.close()


def open_logs(folder: Path, console: io.StringIO | None) -> Logs:
    config = Config(log_location=folder, metrics_location=folder, log_format="json")
    logs = Logs(config, stdout=console)
    logs.open()
    return logs


def objects(text: str) -> list[dict[str, Any]]:
    """The lines of a file, each of which must be an object with these first five keys."""
    found = [json.loads(line) for line in text.splitlines()]
    for one in found:
        assert list(one)[:5] == ["time", "level", "logger", "thread", "message"]
        assert re.fullmatch(TIME, one["time"])
    return found


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    return objects((folder / f"{name}.log").read_text("utf-8"))


def only(folder: Path, name: str) -> dict[str, Any]:
    """The only line of a file, without its time; ts_log.log and the others must agree."""
    (one,) = read(folder, name)
    assert one in read(folder, "ts_log")
    del one["time"]
    return one


def test_an_access_line_has_its_parts(logs: Logs, console: io.StringIO, tmp_path: Path) -> None:
    line = '/127.0.0.1:64003 "POST /predictions/resnet HTTP/1.1" 200 118'
    where = ("/127.0.0.1:64003", "POST", "/predictions/resnet", "HTTP/1.1")
    logs.access(line, (*where, 200, 118, "an-id", "resnet", None))
    logs.flush()

    assert only(tmp_path, "access_log") == {
        "level": "INFO",
        "logger": "ACCESS_LOG",
        "thread": "main",
        "message": line,
        "remote": "/127.0.0.1:64003",
        "method": "POST",
        "path": "/predictions/resnet",
        "protocol": "HTTP/1.1",
        "status": 200,
        "ms": 118,
        "request_id": "an-id",
        "model": "resnet",
    }
    assert console.getvalue() == (tmp_path / "ts_log.log").read_text()
    for other in ("model_log", "ts_metrics", "model_metrics"):
        assert read(tmp_path, other) == []


def test_a_models_traceback_is_one_object(logs: Logs, tmp_path: Path) -> None:
    text = 'It broke\nTraceback:\n  "line" 3\n'
    ids = {"model": "m", "version": "1.0", "request_ids": "id-1,id-2"}
    logs.model("W-9000-m_1.0", "stdout", logging.ERROR, text, **ids)
    logs.flush()

    assert only(tmp_path, "model_log") == {
        "level": "ERROR",
        "logger": "MODEL_LOG",
        "thread": "W-9000-m_1.0-stdout",
        "message": text,
        "worker": "W-9000-m_1.0",
        "stream": "stdout",
        "model": "m",
        "version": "1.0",
        "request_ids": ["id-1", "id-2"],
    }


def test_a_printed_line_has_no_request_ids(logs: Logs, tmp_path: Path) -> None:
    logs.model("W-9000-m_1.0", "stderr", logging.WARNING, "", model="m", version="1.0")
    logs.flush()

    one = only(tmp_path, "model_log")
    assert (one["level"], one["message"], one["stream"]) == ("WARN", "", "stderr")
    assert "request_ids" not in one


def test_metric_lines_keep_their_parts(logs: Logs, tmp_path: Path) -> None:
    spec = load_spec(default_path())
    recorder = Recorder(spec, logs, host="h")
    recorder.http_status(200)
    dimensions = (("ModelName", "m"), ("Level", "Model"))
    recorder.model_metric(
        Metric("HandlerTime", "Milliseconds", "gauge", 1.5, dimensions, "a,b"), "m", "1.0"
    )
    logs.flush()

    one = only(tmp_path, "ts_metrics")
    second = one["timestamp"]
    assert time.time() - 60 < second <= time.time()
    assert one == {
        "level": "INFO",
        "logger": "TS_METRICS",
        "thread": "main",
        "message": f"Requests2XX.Count:1.0|#Level:Host|#hostname:h,timestamp:{second}",
        "name": "Requests2XX",
        "unit": "Count",
        "type": "counter",
        "dimensions": {"Level": "Host"},
        "hostname": "h",
        "value": 1.0,
        "timestamp": second,
    }
    one = only(tmp_path, "model_metrics")
    assert one["message"].startswith("HandlerTime.ms:1.5|#ModelName:m,Level:Model|#hostname:h,")
    assert (one["name"], one["unit"], one["type"]) == ("HandlerTime", "ms", "gauge")
    assert (one["value"], one["request_ids"]) == (1.5, ["a", "b"])
    assert one["dimensions"] == {"ModelName": "m", "Level": "Model"}


def test_the_servers_own_traceback_is_one_object(logs: Logs, tmp_path: Path) -> None:
    try:
        raise RuntimeError("the cause")
    except RuntimeError:
        logging.getLogger("ts_frontend.x").exception("It broke")
    logs.flush()

    one = only(tmp_path, "ts_log")
    assert (one["level"], one["logger"], one["thread"]) == ("ERROR", "ts_frontend.x", "main")
    lines = one["message"].splitlines()
    assert (lines[0], lines[-1]) == ("It broke", "RuntimeError: the cause")


def test_lines_without_fields_are_objects_too(logs: Logs, tmp_path: Path) -> None:
    logs.access("a line")
    logs.flush()

    assert only(tmp_path, "access_log")["message"] == "a line"


@pytest.mark.parametrize(
    ("zone", "offset"), [("UTC0", "+00:00"), ("EAST-5:45", "+05:45"), ("WEST3:30", "-03:30")]
)
def test_times_are_of_now_with_their_zone(
    zone: str, offset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        logs = open_logs(tmp_path, None)
        logs.access("a")
        logs.close()
    finally:
        monkeypatch.undo()
        time.tzset()

    stamp = read(tmp_path, "access_log")[0]["time"]
    assert stamp.endswith(offset)
    age = datetime.now().astimezone() - datetime.fromisoformat(stamp)
    assert timedelta(0) <= age < timedelta(minutes=1)


@given(st.lists(st.text(st.characters(), max_size=20), max_size=3))
def test_no_text_breaks_a_line(texts: list[str]) -> None:
    source = Source("a", "b", "INFO", "", "", names=("x", "dimensions"))
    line = _object(source, "t", "\n".join(texts), ("".join(texts), {t: t for t in texts}))
    assert line.count("\n") == 1
    line.encode()
    one = json.loads(line)
    escaped = "\n".join(texts).encode("utf-8", "backslashreplace").decode()
    assert one["message"] == escaped


def test_bytes_that_are_no_utf8_are_escaped(logs: Logs, tmp_path: Path) -> None:
    bad = b"\xff".decode("utf-8", "surrogateescape")
    logs.model("W-9000-m_1.0", "stdout", logging.INFO, bad, model="m", version=bad)
    logs.flush()

    one = only(tmp_path, "model_log")
    assert (one["message"], one["version"]) == ("\\udcff", "\\udcff")


def test_a_number_that_json_lacks_is_null(logs: Logs, tmp_path: Path) -> None:
    logs.ts_metrics(Said("line", ("n", "u", "gauge", {}, "h", float("nan"), 1)), ())
    logs.flush()

    assert only(tmp_path, "ts_metrics")["value"] is None


def test_nothing_is_lost_between_threads_and_order_is_kept(logs: Logs, tmp_path: Path) -> None:
    wrote = write_at_once(logs, 1000)

    for file in ("access_log", "ts_log"):
        assert by_writer(one["message"] for one in read(tmp_path, file)) == wrote


def test_what_the_server_prints_is_an_object_too(
    logs: Logs, console: io.StringIO, tmp_path: Path
) -> None:
    logs.announce("Model server started.")

    (one,) = objects(console.getvalue())
    assert (one["level"], one["message"]) == ("INFO", "Model server started.")
    assert read(tmp_path, "ts_log") == []
    (one,) = objects(printed("json", "Cannot listen", "ERROR"))
    assert (one["level"], one["message"]) == ("ERROR", "Cannot listen")


def test_the_text_layout_prints_the_bare_line(tmp_path: Path, console: io.StringIO) -> None:
    logs = Logs(Config(log_location=tmp_path, metrics_location=tmp_path), stdout=console)
    logs.open()
    logs.announce("Model server started.")
    logs.close()

    assert console.getvalue() == "Model server started.\n"


def test_missing_lines_are_noted_in_an_object(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_files, "MAX_WAITING", 10)
    stream = io.StringIO()
    sink = ConsoleSink(stream, lambda text: printed("json", text, "WARN"))
    for _ in range(3):
        sink.offer(printed("json", "a line"))
    sink.drain()

    assert [one["message"] for one in objects(stream.getvalue())] == [
        "a line",
        "... 2 log lines not shown: nobody read them in time",
    ]


def test_lines_are_dropped_and_counted_when_too_many_wait(
    logs: Logs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ts_frontend.logs._MAX_WAITING", 10)
    gate, real = threading.Event(), os.write

    def slow(fd: int, data: bytes) -> int:
        gate.wait(10)
        return real(fd, data)

    monkeypatch.setattr(os, "write", slow)
    end = time.monotonic() + 10
    while not logs._missing:
        assert time.monotonic() < end
        logs.access("later")
    gate.set()
    logs.flush()
    logs.flush()

    assert any("log lines are lost" in one["message"] for one in read(tmp_path, "ts_log"))
