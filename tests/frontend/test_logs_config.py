"""`--log-config`: levels and additivity from Python's logging and log4j2, and what is refused."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.frontend.log_writers import Said
from ts_frontend.config import Config, ConfigError
from ts_frontend.logs import Logs

FILES = ("access_log", "ts_log", "model_log", "ts_metrics", "model_metrics")

# As TorchServe's own configuration is made: one appender for each file and standard output.
LOG4J = """<?xml version="1.0" encoding="UTF-8"?>
<Configuration status="warn">
  <Appenders>
    <Console name="console"><PatternLayout pattern="%d{ISO8601} [%-5p] %t %c - %m%n"/></Console>
    <RollingFile name="access" fileName="${env:LOG_LOCATION:-logs}/access_log.log">
      <PatternLayout pattern="%d{ISO8601} - %m%n"/>
      <Policies><TimeBasedTriggeringPolicy/><SizeBasedTriggeringPolicy size="100 MB"/></Policies>
    </RollingFile>
    <RollingFile name="server" fileName="${env:LOG_LOCATION:-logs}/ts_log.log"/>
    <RollingFile name="model" fileName="${env:LOG_LOCATION:-logs}/model_log.log"/>
    <RollingFile name="ts" fileName="${env:METRICS_LOCATION:-logs}/ts_metrics.log"/>
    <RollingFile name="mm" fileName="${env:METRICS_LOCATION:-logs}/model_metrics.log"/>
  </Appenders>
  <Loggers>
    <Logger name="org.pytorch.serve" level="debug"><AppenderRef ref="server"/></Logger>
    <Logger name="ACCESS_LOG" level="info"><AppenderRef ref="access"/></Logger>
    <Logger name="MODEL_LOG" level="all"><AppenderRef ref="model"/></Logger>
    <Logger name="TS_METRICS" level="all"><AppenderRef ref="ts"/></Logger>
    <Logger name="MODEL_METRICS" level="all"><AppenderRef ref="mm"/></Logger>
    <Logger name="org.apache" level="off"/>
    <Logger name="io.netty" level="error"/>
    <Root level="info"><AppenderRef ref="console"/><AppenderRef ref="server"/></Root>
  </Loggers>
</Configuration>
"""


def loggers(text: str) -> str:
    return f"<Configuration>\n<Loggers>\n{text}\n</Loggers>\n</Configuration>"


@contextmanager
def opened(folder: Path, name: str, text: str) -> Iterator[tuple[Logs, io.StringIO]]:
    root = logging.getLogger()
    handlers, stdout = root.handlers[:], io.StringIO()
    (folder / name).write_text(text)
    config = Config(log_location=folder, metrics_location=folder, log_config=folder / name)
    logs = Logs(config, stdout=stdout)
    logs.open()
    try:
        yield logs, stdout
    finally:
        logs.close()
        root.handlers[:] = handlers


def say_everything(logs: Logs) -> None:
    """A line for each file, its name in it; for the model's at each level."""
    logs.access("access_log")
    logs.ts_metrics(Said("ts_metrics"), ())
    logs.model_metrics(Said("model_metrics"), ())
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logs.model("W-9000-m_1.0", "stdout", level, f"model_log {level}")
    for name in ("ts_frontend.x", "ts_worker.x", "asyncio"):
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(level, "%s %s", name, level)
    logs.flush()


def said(folder: Path, name: str) -> list[str]:
    """What `say_everything` left in a file."""
    lines = (folder / f"{name}.log").read_text().splitlines()
    texts = [line.split(" - ", 1)[1] for line in lines]
    starts = ("access", "ts_metrics", "model_", "ts_frontend.x", "ts_worker.x", "asyncio")
    return [text for text in texts if text.startswith(starts)]


def test_torchserves_own_log4j2_works_with_one_warning(tmp_path: Path) -> None:
    with opened(tmp_path, "log4j2.xml", LOG4J) as (logs, stdout):
        say_everything(logs)

    assert said(tmp_path, "access_log") == ["access_log"]
    assert said(tmp_path, "ts_metrics") == ["ts_metrics"]
    assert said(tmp_path, "model_metrics") == ["model_metrics"]
    every = (10, 20, 30, 40)
    assert said(tmp_path, "model_log") == [f"model_log {level}" for level in every]
    server = [f"ts_{room}.x {level}" for room in ("frontend", "worker") for level in every]
    expected = {*server, *(f"asyncio {level}" for level in (20, 30, 40))}
    own = {"access_log", "ts_metrics", "model_metrics", *said(tmp_path, "model_log")}
    assert set(said(tmp_path, "ts_log")) == expected | own
    assert stdout.getvalue() == (tmp_path / "ts_log.log").read_text()
    (warning,) = [line for line in stdout.getvalue().splitlines() if "log4j2.xml" in line]
    assert "[WARN ]" in warning
    assert "appenders console, access, server, model, ts, mm (LOG_LOCATION and METRICS" in warning
    assert "loggers org.apache, io.netty (nothing here logs by these names)" in warning


@pytest.mark.parametrize(
    ("level", "passed"),
    [
        ("off", []),
        ("fatal", []),
        ("ERROR", [40]),
        ("warn", [30, 40]),
        ("info", [20, 30, 40]),
        ("Debug", [10, 20, 30, 40]),
        ("trace", [10, 20, 30, 40]),
        ("all", [10, 20, 30, 40]),
        ("${env:NO_SUCH_VARIABLE:-warn}", [30, 40]),
        ("${env:LEVEL_OF_A_TEST}", [40]),
    ],
)
def test_levels_filter(
    level: str, passed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEVEL_OF_A_TEST", "error")
    names = ("org.pytorch.serve", "ACCESS_LOG", "MODEL_LOG", "TS_METRICS", "MODEL_METRICS")
    text = "".join(f'<Logger name="{name}" level="{level}"/>' for name in names)
    with opened(tmp_path, "a.xml", loggers(text)) as (logs, stdout):
        say_everything(logs)

    # The lines of access log and metrics are INFO.
    for name in ("access_log", "ts_metrics", "model_metrics"):
        assert said(tmp_path, name) == [name] * (20 in passed)
    assert said(tmp_path, "model_log") == [f"model_log {number}" for number in passed]
    everywhere = set(said(tmp_path, "ts_log"))
    assert {text for text in everywhere if text.startswith("ts_frontend")} == {
        f"ts_frontend.x {number}" for number in passed
    }
    assert ("access_log" in everywhere) == (20 in passed)
    assert "a.xml" not in stdout.getvalue(), "everything counted: no warning"


def test_a_logger_without_a_level_has_the_roots(tmp_path: Path) -> None:
    text = '<Logger name="MODEL_LOG" level="debug"/><AsyncRoot level="warn"/>'
    with opened(tmp_path, "a.xml", loggers(text)) as (logs, _):
        say_everything(logs)

    assert said(tmp_path, "access_log") == []
    assert len(said(tmp_path, "model_log")) == 4
    assert "ts_frontend.x 20" not in said(tmp_path, "ts_log")
    assert "ts_frontend.x 30" in said(tmp_path, "ts_log")


def test_a_logger_that_is_not_additive_keeps_to_its_file(tmp_path: Path) -> None:
    text = '<AsyncLogger NAME="ACCESS_LOG" level="info" additivity="false"/>'
    text += '<logger name="MODEL_LOG" additivity="FALSE"/>'
    with opened(tmp_path, "a.xml", loggers(text)) as (logs, stdout):
        say_everything(logs)

    assert said(tmp_path, "access_log") == ["access_log"]
    assert len(said(tmp_path, "model_log")) == 4
    assert {"access_log", "model_log 20"}.isdisjoint(said(tmp_path, "ts_log"))
    assert "ts_metrics" in said(tmp_path, "ts_log")
    assert "access_log" not in stdout.getvalue()
    assert stdout.getvalue() == (tmp_path / "ts_log.log").read_text()


def test_what_has_no_effect_is_named_with_its_cure(tmp_path: Path) -> None:
    text = """<Configuration><CustomLevels/><Appenders><Kafka name="bus"/></Appenders><Loggers>
        <Logger name="org.pytorch.serve.wlm" level="off"/>
        <Logger name="org.pytorch.serve" level="info" additivity="false">
          <AppenderRef ref="bus" level="error"/><ThresholdFilter level="warn"/>
        </Logger></Loggers></Configuration>"""
    with opened(tmp_path, "a.xml", text) as (logs, stdout):
        say_everything(logs)

    (warning,) = [line for line in stdout.getvalue().splitlines() if "a.xml" in line]
    assert warning.endswith(
        "a.xml: levels and additivity of loggers count, not so: "
        "appenders bus (LOG_LOCATION and METRICS_LOCATION say where the files go, log_format=json "
        "makes JSON lines); loggers org.pytorch.serve.wlm (nothing here logs by these names); "
        "elements CustomLevels, AppenderRef with a level, ThresholdFilter (only the level of a "
        "logger filters); additivity of org.pytorch.serve (its lines stand in ts_log.log once "
        "anyhow)"
    )


BOMB = '<!DOCTYPE a [<!ENTITY x "y">\n<!ENTITY z "&x;&x;">]>\n<Configuration>&z;</Configuration>'


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "line 1: not XML: no element found"),
        ("<Configuration>\n<Loggers>\n</Configuration>", "line 3: not XML: mismatched tag"),
        ("<?xml version='1.0' encoding='nope'?><Configuration/>", "line 1: not XML: unknown enc"),
        (BOMB, "line 1: <!DOCTYPE> is refused: remove it"),
        (
            "\n<log4j:configuration/>",
            "line 2: <log4j:configuration> is not log4j2, expected <Configuration>",
        ),
        (loggers('<Root level="loud"/>'), 'line 3: level="loud": expected one of off, fatal,'),
        (
            loggers('<Root level="${sys:level}"/>'),
            'line 3: level="${sys:level}": expected one of off',
        ),
        (
            loggers('<Root level="${env:NO_SUCH_VARIABLE}"/>'),
            'line 3: level="${env:NO_SUCH_VARIABLE}" (): expected one of off',
        ),
        (loggers('\n<Logger level="info"/>'), "line 4: <Logger> in <Loggers>: expected <Root> or"),
        (loggers("<Category/>"), "line 3: <Category> in <Loggers>: expected <Root> or <Logger"),
    ],
)
def test_a_broken_log4j2_file_is_refused_with_its_line(
    text: str, cause: str, tmp_path: Path
) -> None:
    path = tmp_path / "log4j2.xml"
    path.write_text(text)
    config = Config(log_location=tmp_path, metrics_location=tmp_path, log_config=path)

    with pytest.raises(ConfigError) as caught:
        Logs(config, stdout=None).open()
    assert str(caught.value).startswith(f"--log-config {path}, {cause}")


def test_log4j2_properties_have_no_effect(tmp_path: Path) -> None:
    with opened(tmp_path, "log4j2.properties", "rootLogger=off") as (_, stdout):
        pass

    (line,) = stdout.getvalue().splitlines()
    assert "log4j2.properties has no effect: give a log4j2 XML, whose levels count" in line


YAML = """
version: 1
loggers:
  ACCESS_LOG: {level: WARNING}
  MODEL_LOG: {level: ERROR}
  TS_METRICS: {propagate: false}
  ts_frontend: {level: DEBUG}
"""
JSON = """{"version": 1, "loggers": {"ACCESS_LOG": {"level": "WARNING"}, "MODEL_LOG":
  {"level": "ERROR"}, "TS_METRICS": {"propagate": false}, "ts_frontend": {"level": "DEBUG"}}}"""
INI = """
[loggers]
keys=root,access,model,metrics,server
[handlers]
keys=
[formatters]
keys=
[logger_root]
handlers=
[logger_access]
qualname=ACCESS_LOG
level=WARNING
handlers=
[logger_model]
qualname=MODEL_LOG
level=ERROR
handlers=
[logger_metrics]
qualname=TS_METRICS
propagate=0
handlers=
[logger_server]
qualname=ts_frontend
level=DEBUG
handlers=
"""


@pytest.mark.parametrize(("name", "text"), [("a.yaml", YAML), ("a.json", JSON), ("a.ini", INI)])
def test_levels_of_pythons_logging_count_for_every_file(
    name: str, text: str, tmp_path: Path
) -> None:
    with opened(tmp_path, name, text) as (logs, _):
        say_everything(logs)

    assert said(tmp_path, "access_log") == []
    assert said(tmp_path, "model_log") == ["model_log 40"]
    assert said(tmp_path, "ts_metrics") == ["ts_metrics"]
    everywhere = set(said(tmp_path, "ts_log"))
    assert everywhere.isdisjoint({"access_log", "model_log 30", "ts_metrics"})
    assert everywhere >= {"model_metrics", "model_log 40", "ts_frontend.x 10", "ts_worker.x 20"}


def test_a_handler_that_gets_nothing_is_told(tmp_path: Path) -> None:
    text = """
version: 1
handlers: {mine: {class: logging.NullHandler}}
loggers: {ACCESS_LOG: {handlers: [mine]}}
"""
    access = logging.getLogger("ACCESS_LOG")
    try:
        with opened(tmp_path, "a.yaml", text) as (_, stdout):
            pass
    finally:
        access.handlers.clear()

    assert "handlers of ACCESS_LOG get nothing" in stdout.getvalue()


def test_closing_gives_the_loggers_back(tmp_path: Path) -> None:
    names = ("", "ts_frontend", "ts_worker", "ACCESS_LOG", "MODEL_LOG")
    before = [(logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names]
    text = '<Root level="off"/><Logger name="ACCESS_LOG" level="error" additivity="false"/>'
    with opened(tmp_path, "a.xml", loggers(text)):
        assert logging.getLogger("ACCESS_LOG").level == logging.ERROR
        assert not logging.getLogger("ts_frontend.x").isEnabledFor(logging.CRITICAL)

    assert [(logging.getLogger(n).level, logging.getLogger(n).propagate) for n in names] == before
