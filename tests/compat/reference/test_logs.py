"""Logging by the table 9: the files, their patterns, rolling, what stands in a line, --log-config.

Not here, since they come with later work: access lines of gRPC calls.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.compat.reference.rows import row
from tests.compat.reference.wire import ask
from tests.e2e.conftest import MARS, Server, archive, until
from ts_frontend import rotation
from ts_frontend.log_files import FileSink

pytestmark = pytest.mark.e2e

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3}"
BRIEF = re.compile(rf"{STAMP} - (.*)")
FULL = re.compile(rf"{STAMP} \[(FATAL|ERROR|WARN |INFO |DEBUG|TRACE)\] (\S+) (\S+) - (.*)")
METRIC = r"\w+\.\w+:[-0-9.E]+\|#\w+:\S+\|#hostname:\S+,timestamp:\d+"


@dataclass
class Logging(Server):
    """A server whose metric logs have a folder of their own, and management a Unix socket."""

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | {"METRICS_LOCATION": str(self.folder / "metrics")}

    @property
    def socket(self) -> Path:
        return self.folder / "m.sock"

    def run(self, *flags: str, **settings: object) -> None:
        self.prepare(
            disable_token_authorization="true",
            default_workers_per_model=1,
            management_address=f"unix:{self.socket}",
            metric_time_interval=1,
            **settings,
        )
        archive(self.store, "speak", MARS / "speak.py")
        self.start("--models", "speak.mar", *flags)

    def say(self, *words: str) -> None:
        for word in words:
            self.predict("speak", word.encode())

    def lines(self, name: str) -> list[str]:
        """Whole lines of a log file."""
        folder = "metrics" if name.endswith("metrics") else "logs"
        return (self.folder / folder / f"{name}.log").read_text().splitlines()

    def line(self, name: str, end: str) -> str:
        """Wait for the line that ends so."""
        found = until(lambda: [line for line in self.lines(name) if line.endswith(end)], 10)
        return found[0]

    def over_socket(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(self.socket))
            client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            while client.recv(4096):
                pass


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Logging:
    """A server in TorchServe's patterns, after one request of each sort; it has ended."""
    server = Logging(tmp_path_factory.mktemp("text"))
    server.run()
    try:
        server.say("20", "30", "40", "print", "break")
        server.over_socket("/models?limit=1")
        ask(server.ports[0], "NONSENSE\x01", "/ping")
        server.line("model_log", "complained")
        until(lambda: any("CPUUtilization" in line for line in server.lines("ts_metrics")))
    finally:
        assert server.stop() == 0
    return server


@row("9 access_log", "9 ts_metrics", "9 model_metrics")
def test_files_of_brief_lines(said: Logging, table_row: str) -> None:
    """``%d{ISO8601} - %m%n`` in the own file, the long pattern in ts_log and on stdout."""
    name = table_row.split()[1]
    logger = {"access_log": "ACCESS_LOG"}.get(name, name.upper())
    lines = said.lines(name)
    assert lines
    everywhere = set(said.lines("ts_log"))
    for line in lines:
        match = BRIEF.fullmatch(line)
        assert match, line
        assert line.replace(" - ", f" [INFO ] main {logger} - ", 1) in everywhere


@row("9 model_log")
def test_the_models_log_has_the_long_pattern(said: Logging) -> None:
    lines = said.lines("model_log")
    assert lines
    everywhere = set(said.lines("ts_log"))
    for line in lines:
        match = FULL.fullmatch(line)
        assert match, line
        assert match[3] == "MODEL_LOG"
        assert re.fullmatch(r"W-9000-speak_1\.0-(stdout|stderr)", match[2])
        assert line in everywhere


@row("9 ts_log", "9 stdout")
def test_every_line_goes_there(said: Logging, table_row: str) -> None:
    """Mended: the server's own lines stand in ts_log.log once, not twice."""
    lines = said.lines("ts_log") if table_row == "9 ts_log" else said.output.splitlines()
    plain = [line for line in lines if not FULL.fullmatch(line)]
    assert plain == ([] if table_row == "9 ts_log" else ["Model server started."])
    loggers = {match[3] for line in lines if (match := FULL.fullmatch(line))}
    assert loggers >= {"ACCESS_LOG", "MODEL_LOG", "TS_METRICS", "MODEL_METRICS"}
    assert "ts_frontend.server" in loggers
    greetings = [line for line in lines if "torchserve-py" in line and "configuration:" in line]
    assert len(greetings) == 1


@row("9 ISO8601", "9 level padded to five")
def test_the_head_of_a_line(said: Logging) -> None:
    for level, word in (("INFO ", "20"), ("WARN ", "30"), ("ERROR", "40")):
        line = said.line("model_log", f"logged at {word}")
        assert re.match(rf"{STAMP} \[{level}\] W-9000-speak_1\.0-stdout MODEL_LOG - ", line)


@row("9 loggers are additive")
def test_ts_log_has_them_all_once(said: Logging) -> None:
    everywhere = said.lines("ts_log")
    for name in ("access_log", "model_log", "ts_metrics", "model_metrics"):
        for line in said.lines(name):
            stamp, text = line[:23], line.split(" - ", 1)[1]
            twins = [one for one in everywhere if one.startswith(stamp) and one.endswith(text)]
            assert len(twins) >= 1, line


@row("9 LOG_LOCATION", "9 METRICS_LOCATION")
def test_folders(said: Logging, table_row: str) -> None:
    folder, names = {
        "9 LOG_LOCATION": ("logs", ("access_log", "model_log", "ts_log")),
        "9 METRICS_LOCATION": ("metrics", ("model_metrics", "ts_metrics")),
    }[table_row]
    files = sorted(path.name for path in (said.folder / folder).iterdir() if path.is_file())
    assert files == [f"{name}.log" for name in names]


@row("9 rolling at 100 MB", "9 rolling daily", "9 rolled name", "9 five are kept")
def test_rolling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table_row: str) -> None:
    """Here on one file; `tests/frontend/test_logs_files.py` has the bad days."""
    assert (rotation.MAX_BYTES, rotation.KEPT) == (100 << 20, 5)
    day = iter(f"{number:02d}-May" for number in range(1, 30))
    today = [next(day)]
    monkeypatch.setattr(rotation, "day_of", lambda seconds: today[0])
    sink = FileSink(tmp_path / "access_log.log", 20 if "MB" in table_row else rotation.MAX_BYTES)
    sink.open()
    for number in range(8):
        sink.write(f"line {number} of this log\n")
        today[0] = today[0] if "MB" in table_row else next(day)
    sink.close()

    rolled = sorted(path.name for path in tmp_path.glob("*.gz"))
    assert len(rolled) == 5
    if "MB" not in table_row:
        assert rolled == [f"access_log.{number:02d}-May.log.gz" for number in range(3, 8)]
        assert gzip.decompress((tmp_path / rolled[-1]).read_bytes()) == b"line 6 of this log\n"


@row("9 access message")
def test_an_access_line(said: Logging) -> None:
    lines = [line.split(" - ", 1)[1] for line in said.lines("access_log")]
    good = r'/127\.0\.0\.1:\d+ "POST /predictions/speak HTTP/1\.1" 200 \d+'
    assert sum(bool(re.fullmatch(good, line)) for line in lines) == 4
    bad = good.replace("200", "503")
    assert sum(bool(re.fullmatch(bad, line)) for line in lines) == 1


@row("9 access message of a Unix socket")
def test_a_unix_sockets_line(said: Logging) -> None:
    lines = [line.split(" - ", 1)[1] for line in said.lines("access_log")]
    (line,) = [line for line in lines if "/models" in line]
    assert re.fullmatch(r'127\.0\.0\.1 "GET /models\?limit=1 HTTP/1\.0" 200 \d+', line)


@row("9 access message of what can't be decoded")
def test_an_undecodable_requests_line(said: Logging) -> None:
    lines = [line.split(" - ", 1)[1] for line in said.lines("access_log")]
    (line,) = [line for line in lines if " 400 " in line]
    assert re.fullmatch(r'/127\.0\.0\.1:\d+ "GET / HTTP/1\.1" 400 \d+', line)


@row("9 worker stdout is INFO", "9 worker stderr is WARN", "9 thread name")
def test_what_a_worker_prints(said: Logging) -> None:
    printed, complained = (said.line("model_log", text) for text in ("printed", "complained"))
    assert "[INFO ] W-9000-speak_1.0-stdout MODEL_LOG - printed" in printed
    assert "[WARN ] W-9000-speak_1.0-stderr MODEL_LOG - complained" in complained


@row("9 [PID]", "9 Torch worker started.")
def test_a_worker_tells_its_pid_and_its_start(said: Logging, table_row: str) -> None:
    end = r"\[PID\]\d+" if "PID" in table_row else r"Torch worker started\."
    (line,) = [line for line in said.lines("model_log") if re.search(f" - {end}$", line)]
    assert "[INFO ] W-9000-speak_1.0-stdout MODEL_LOG - " in line


@row("9 a handler's traceback")
def test_a_traceback_has_a_line_each(said: Logging) -> None:
    texts = [line.split(" MODEL_LOG - ", 1)[1] for line in said.lines("model_log")]
    at = texts.index("Traceback (most recent call last):")
    assert "ValueError: broken" in texts[at:]
    assert "in two lines" in texts[at:]
    assert {"loading", "in two lines"} <= set(texts[:at])


@row("9 ts_metrics message", "9 model_metrics message")
def test_metric_lines(said: Logging, table_row: str) -> None:
    name = table_row.split()[1]
    ids = r"(,requestID:\S+)?" if name == "model_metrics" else ""
    pattern = METRIC.replace(",timestamp", f"{ids},timestamp")
    lines = said.lines(name)
    assert lines
    for line in lines:
        assert re.fullmatch(pattern, line.split(" - ", 1)[1]), line


LOG4J = """<Configuration><Appenders><Console name="out"><JSONPatternLayout/></Console></Appenders>
<Loggers><Logger name="ACCESS_LOG" level="off"/>
<Logger name="MODEL_LOG" level="warn" additivity="false"><AppenderRef ref="out"/></Logger>
<Root level="info"/></Loggers></Configuration>"""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Logging:
    """A server that was told levels by a log4j2 file, and to log JSON; it has ended."""
    server = Logging(tmp_path_factory.mktemp("json"))
    (server.folder / "log4j2.xml").write_text(LOG4J)
    server.run("--log-config", "log4j2.xml", log_format="json")
    try:
        server.say("20", "30", "40", "break")
        server.line("model_metrics", "}")
        until(lambda: any("CPUUtilization" in line for line in server.lines("ts_metrics")))
    finally:
        assert server.stop() == 0
    return server


def objects(lines: list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


@row("9 --log-config replaces the levels")
def test_a_log4j2_file(told: Logging) -> None:
    assert told.lines("access_log") == []
    assert {one["level"] for one in objects(told.lines("model_log"))} == {"WARN", "ERROR"}
    everywhere = objects(told.lines("ts_log"))
    assert "MODEL_LOG" not in {one["logger"] for one in everywhere}
    (warning,) = [one for one in everywhere if "log4j2.xml" in one["message"]]
    assert "appenders out (" in warning["message"]
    assert "log_format=json makes JSON lines" in warning["message"]


@row("9 JSONPatternLayout")
def test_json_lines(told: Logging) -> None:
    """Mended: a key of config.properties in place of a layout of log4j."""
    for name in ("ts_log", "model_log", "ts_metrics", "model_metrics"):
        found = objects(told.lines(name))
        assert found
        for one in found:
            assert list(one)[:5] == ["time", "level", "logger", "thread", "message"]
    shown = objects(told.output.splitlines())
    assert "Model server started." in [one["message"] for one in shown]
    (broken,) = [one for one in objects(told.lines("model_log")) if "Traceback" in one["message"]]
    assert broken["message"].endswith("ValueError: broken\nin two lines")
    assert (broken["model"], broken["version"]) == ("speak", "1.0")
    assert [len(id) for id in broken["request_ids"]] == [36]
